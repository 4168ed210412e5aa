// Forward and gradient of the input, one gather with the map read in two ways: see axis.h.
#pragma once

#include "../problem.h"
#include "axis.h"
#include "convert.h"
#include "gather_row.h"
#include "generate.h"
#include "generate_quantised.h"

namespace involution {
namespace {

// slabs and the scratch for a row of the map fit into a core's L2 cache
constexpr int64_t kSlabBytes = 256 << 10;
// multiply-adds of whole vectors worth waking a thread for
constexpr int64_t kGrainWork = 16 << 10;

// an epilogue in the arithmetic type, a cache line longer than the channels
template <class A>
struct Finish {
  const A* scale = nullptr;
  const A* shift = nullptr;
  bool relu = false;
};

template <class T>
using GeneratorOf = std::conditional_t<std::is_same_v<T, UInt8>, QuantisedGenerator, Generator<T>>;

template <class T, bool Transposed, class G = GeneratorOf<T>>
class Gather {
  using A = typename Arithmetic<T>::type;
  static constexpr int L = kLanes<A>;
  // phases whose rows are prepared once per call
  static constexpr int64_t kKept = 4;
  // float16 runs on widened copies but with AVX2, bfloat16 where its kernels are not specialised
  static constexpr bool kDirect = !std::is_same_v<T, Half> || kBytes == 32;
  // what directly reads sources, and the map as it is stored
  using Stored = std::conditional_t<std::is_same_v<T, BFloat16> && !Transposed && kPairs, Pairs, T>;

 public:
  // with a generator the problem's map has no memory: its rows are generated in scratch, pixel by pixel
  Gather(const Problem& p, const Parallel& parallel, const G* generator = nullptr, const Finish<A>& finish = {})
      : source_(Transposed ? p.output : p.input),
        target_(Transposed ? p.input : p.output),
        map_(p.map),
        zero_(static_cast<A>(p.zero)),
        generator_(generator),
        finish_(finish),
        parallel_(parallel) {
    group_width_ = source_.size[1] / map_.size[1];
    group_taps_ = map_.size[2] * map_.size[3] * map_.size[4];
    direct_ = direct_type(p) && source_.stride[1] == 1 && target_.stride[1] == 1 && group_width_ % L == 0;
    // a row of a map of half type is read from scratch as well, in its own order
    const bool taps_first = map_.stride[4] == 1 && map_.stride[7] != 1;
    paired_ =
        std::is_same_v<Stored, Pairs> && multiplies_pairs() && direct_ && generator == nullptr && map_.stride[4] == 1;
    convert_map_ = sizeof(T) != sizeof(A) && generator == nullptr && !paired_;
    convert_band_ =
        kBytes < 64 && convert_map_ && taps_first && map_.size[2] * map_.size[5] == 1 && map_.stride[3] == map_.size[4];
    // where the map's pixels are neighbours a thread follows a group's taps from row to row
    by_group_ = generator_ == nullptr && map_.stride[7] == 1;
    // the kernels of AVX-512 have longer tiles, which read a source less often
    copies_ = kBytes < 64 && direct_ && !convert_map_ && map_.size[2] == 1 && map_.size[3] > 3 &&
              source_.stride[4] * int64_t(sizeof(T)) >= kFarColumns &&
              elements(source_.size, 5) * int64_t(sizeof(T)) <= kCopiedBytes;
    for (int i = 0; i < 3; ++i) {
      axis_[i] = {target_.size[2 + i], source_.size[2 + i], map_.size[2 + i],   p.stride[i],
                  p.padding[i],        p.dilation[i],       map_.stride[5 + i], map_.stride[2 + i]};
    }
    // with few rows, distribute their groups as well
    const int64_t rows = most<int64_t>(1, target_.size[0] * target_.size[2] * target_.size[3]);
    direct_rows_ = generator == nullptr ? 1 : ceil_div(kGeneratedPixels, target_.size[4] + 1);
    direct_rows_ = most<int64_t>(1, least(target_.size[3], direct_rows_));
    const int64_t together = convert_band_ && Transposed ? kDirectRows / 2 : direct_rows_;
    parts_ = least(map_.size[1], ceil_div(8 * parallel.threads * together, rows));
    near_groups_ = map_.size[1];
    if (copies_) share_copies();
    if (generator_ != nullptr) {
      map_pitch_ = G::pixel_pitch(group_taps_ * (direct_ ? ceil_div(map_.size[1], parts_) : 1));
      const int64_t strides[8] = {0, group_taps_, 0, map_.size[4], 1, 0, 0, map_pitch_};
      for (int i = 0; i < 8; ++i) map_.stride[i] = strides[i];
      for (int i = 0; i < 3; ++i) axis_[i].map_pixel = strides[5 + i], axis_[i].map_tap = strides[2 + i];
    }
    columns_ = axis_[2];
    taps_inside_ = axis_[2].map_tap == 1 && axis_[2].map_pixel != 1;
    if (convert_map_) {
      columns_.map_tap = taps_inside_ ? 1 : map_.size[7];
      columns_.map_pixel = taps_inside_ ? group_taps_ : 1;
    }
    if (convert_band_) {
      const int64_t row = group_taps_ * map_.size[7], most_rows = least(axis_[1].targets, kDirectRows);
      const int64_t rows_read = Transposed ? slab_rows(most_rows) : 1;
      converted_ = least(ceil_div(map_.size[1], parts_), kSlabBytes / (rows_read * row * int64_t(sizeof(A)) + 1));
      converted_ = direct_ ? most<int64_t>(1, converted_) : 1;
      columns_.map_pixel *= converted_;
      axis_[1].map_pixel = row * converted_;
    }
    const int64_t bytes = sizeof(T) * (elements(source_.size, 5) + elements(target_.size, 5) +
                                       (generator_ == nullptr ? elements(map_.size, 8) : 0));
    const int64_t line = kLine / int64_t(sizeof(T));
    near_ = bytes < kNearBytes;
    stream_ = direct_ && bytes > kStreamedBytes && reinterpret_cast<uintptr_t>(target_.data) % kLine == 0 &&
              target_.stride[0] % line == 0 && target_.stride[2] % line == 0 && target_.stride[3] % line == 0 &&
              target_.stride[4] % line == 0;
    if constexpr (kDirect) {
      const int64_t column = copies_ ? L : source_.stride[4];
      if (paired_) {
        stored_passes_ = passes<Stored>(column, target_.stride[4]);
      } else if (direct_) {
        direct_passes_ = passes<T>(column, target_.stride[4]);
      }
    }
    if (!direct_) packed_passes_ = passes<A>(L, L);
  }

  static int64_t elements(const int64_t* size, int count) {
    int64_t product = 1;
    for (int i = 0; i < count; ++i) product *= size[i];
    return product;
  }

  void run() const {
    const int64_t rows = target_.size[0] * axis_[0].targets * axis_[1].targets;
    if (rows * axis_[2].targets * target_.size[1] == 0) return;
    const int64_t chunks = ceil_div(group_width_, L);
    int64_t group_work = axis_[2].targets * group_taps_ * chunks;
    if (generator_ != nullptr) group_work += axis_[2].targets * group_taps_ * generator_->features() / L;
    if (direct_) {
      const int64_t share = ceil_div(rows * parts_, 4 * parallel_.threads);
      const int64_t band = copies_         ? copied_rows_
                           : convert_band_ ? converted_rows()
                           : by_group_     ? least(axis_[1].targets, least(kDirectRows, share))
                                           : direct_rows_;
      const int64_t bands = ceil_div(axis_[1].targets, band);
      const int64_t tasks = target_.size[0] * axis_[0].targets * bands * parts_;
      const int64_t grain = ceil_div(kGrainWork * parts_, group_work * map_.size[1] * band + 1);
      parallel_for(parallel_, tasks, grain, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) direct(task, bands, band);
        if (stream_) fence();
      });
      return;
    }
    const int64_t band = band_rows();
    const int64_t bands = ceil_div(axis_[1].targets, band);
    const int64_t tasks = target_.size[0] * map_.size[1] * axis_[0].targets * bands;
    parallel_for(parallel_, tasks, ceil_div(kGrainWork, group_work * band + 1), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) packed(task, bands, band);
    });
  }

 private:
  const T* source_at(int64_t n, int64_t c, int64_t z, int64_t y) const {
    return static_cast<const T*>(source_.data) + n * source_.stride[0] + c * source_.stride[1] + z * source_.stride[2] +
           y * source_.stride[3];
  }

  T* target_at(int64_t n, int64_t c, int64_t z, int64_t y) const {
    return static_cast<T*>(target_.data) + n * target_.stride[0] + c * target_.stride[1] + z * target_.stride[2] +
           y * target_.stride[3];
  }

  const T* map_at(int64_t n, int64_t g) const {
    return static_cast<const T*>(map_.data) + n * map_.stride[0] + g * map_.stride[1];
  }

  bool direct_type(const Problem& p) const {
    if (sizeof(T) == sizeof(A)) return true;
    const int64_t taps = map_.size[4], stride = p.stride[2] / gcd(p.stride[2], p.dilation[2]);
    if (!kDirect || (p.stride[2] > 1 && stride > 2)) return false;
    if (p.stride[2] == 1) return specialised<T, 1>(taps);
    if (!Transposed) return specialised<T, 2>(taps);
    return stride == 2 && specialised<T, 1>(taps / 2) && specialised<T, 1>(ceil_div(taps, 2));
  }

  // Shared by all rows; `U` is the type of sources and targets as the kernel reads them.
  template <class U>
  struct Pass {
    Row<U> row;
    RowFunction<U> function;
    int64_t column, map, target;
  };

  template <class U>
  struct Passes {
    int64_t count = 0;
    Pass<U> kept[kKept];
  };

  template <class U>
  Pass<U> pass(int64_t index, int64_t source_column, int64_t target_column) const {
    const Phase p = phase_of<Transposed>(columns_, index);
    Row<U> r{};
    r.planes = r.rows = 0;
    r.column = p.column_step * source_column;
    r.low = p.low;
    r.high = p.high;
    r.map_target = p.map_target;
    r.map_tap = p.map_tap;
    r.target_step = p.step * target_column;
    r.count = p.count;
    r.relu = finish_.relu;
    r.zero = zero_;
    r.prefetch = generator_ == nullptr && !convert_map_;
    r.stream = stream_;
    r.taps = p.taps;
    r.stride = p.stride;
    return {r, row_function<U>(r), p.column * source_column, p.map, p.first * target_column};
  }

  template <class U>
  Passes<U> passes(int64_t source_column, int64_t target_column) const {
    Passes<U> all;
    all.count = phase_count<Transposed>(columns_);
    for (int64_t i = 0; i < least(all.count, kKept); ++i) all.kept[i] = pass<U>(i, source_column, target_column);
    return all;
  }

  // one target row; pointers are to column 0 of their tensors
  template <class U>
  void row(const Passes<U>& all, Row<U> r, int64_t channel, int64_t source_column, int64_t target_column) const {
    if (finish_.scale != nullptr) {
      r.scale = finish_.scale + channel;
      r.shift = finish_.shift + channel;
    }
    for (int64_t i = 0; i < all.count; ++i) {
      const Pass<U> p = i < kKept ? all.kept[i] : pass<U>(i, source_column, target_column);
      if (p.row.count == 0) continue;
      Row<U> one = p.row;
      one.source = r.source + p.column;
      one.planes = r.planes;
      one.source_plane = r.source_plane;
      one.map_plane = r.map_plane;
      one.rows = r.rows;
      one.source_row = r.source_row;
      one.ahead = r.ahead;
      one.map_row = r.map_row;
      one.map = r.map + p.map;
      one.target = r.target + p.target;
      one.blocks = r.blocks;
      one.source_block = r.source_block;
      one.map_block = r.map_block;
      one.scale = r.scale;
      one.shift = r.shift;
      p.function(one);
    }
  }

  // directly from tensor to tensor
  void direct(int64_t task, int64_t bands, int64_t band) const {
    const int64_t part = task % parts_, y0 = task / parts_ % bands * band, y1 = least(y0 + band, axis_[1].targets);
    const int64_t nz = task / parts_ / bands, z = nz % axis_[0].targets, n = nz / axis_[0].targets;
    const int64_t first = part * map_.size[1] / parts_, last = (part + 1) * map_.size[1] / parts_;
    const Reads planes = inside(reads_of<Transposed>(axis_[0], z), axis_[0].sources);
    if (copies_ || generator_ != nullptr) return part_of_rows(n, z, y0, y1, first, last, planes);
    int64_t map_begin = 0, map_end = 1;
    if (convert_band_) map_rows(y0, y1, &map_begin, &map_end);
    A* copy = convert_map_ ? scratch<A>((map_end - map_begin) * converted_ * group_taps_ * map_.size[7]) : nullptr;
    const int64_t step = convert_band_ ? converted_ : by_group_ || convert_map_ ? 1 : last - first;
    for (int64_t g = first; g < last; g += step) {
      const int64_t end = least(last, g + step);
      if constexpr (sizeof(T) != sizeof(A)) {
        if (convert_band_) convert_band(map_at(n, g), end - g, map_begin, map_end, copy);
      }
      for (int64_t y = y0; y < y1; ++y) {
        const Reads rows = inside(reads_of<Transposed>(axis_[1], y), axis_[1].sources);
        const T* map = map_at(n, g) + planes.map + rows.map;
        if constexpr (sizeof(T) == sizeof(A)) {
          direct_row(direct_passes_, n, z, y, g, end, planes, rows, map, map_.stride[1]);
        } else if constexpr (std::is_same_v<Stored, Pairs>) {
          if (paired_) {
            direct_row(stored_passes_, n, z, y, g, end, planes, rows, map, map_.stride[1]);
            continue;
          }
        }
        if constexpr (sizeof(T) != sizeof(A)) {
          if (!convert_band_) convert_map(map, planes, rows, copy);
          const A* at = convert_band_ ? copy + (rows.map - map_begin * axis_[1].map_pixel) : copy;
          direct_row(direct_passes_, n, z, y, g, end, planes, rows, at, group_taps_);
        }
      }
    }
  }

  // sources a task reads: [block][row][column][lane]
  struct Copy {
    T* data;
    int64_t first_block, first_row, row, block;
  };

  int64_t copied_size(int64_t blocks) const { return blocks * slab_rows(copied_rows_) * axis_[2].sources * kLine; }

  // How tasks share groups and rows so that a task's sources fit into the cache: few groups are better than few rows,
  // whose neighbours would be copied twice.
  void share_copies() {
    const int64_t groups = map_.size[1], chunks = group_width_ / L, threads = parallel_.threads;
    const int64_t images = target_.size[0] * axis_[0].targets, row = axis_[2].sources * kLine;
    copied_rows_ = axis_[1].targets;
    const auto size = [&] { return copied_size(ceil_div(groups, parts_) * chunks); };
    const int64_t of_pixel = group_taps_ * int64_t(sizeof(A));
    parts_ = generator_ == nullptr ? 1 : least(groups, ceil_div(groups * kGeneratedPixels * of_pixel, kMapBytes));
    while (parts_ < groups && size() > kSlabBytes) ++parts_;
    while (2 * parts_ <= groups && images * parts_ < 2 * threads) parts_ *= 2;
    while (copied_rows_ > 1 &&
           (size() > kSlabBytes || images * parts_ * ceil_div(axis_[1].targets, copied_rows_) < threads)) {
      copied_rows_ = (copied_rows_ + 1) / 2;
    }
    const int64_t near = least(axis_[1].taps, axis_[1].sources) * row * chunks;
    near_groups_ = by_group_ ? 1 : most<int64_t>(1, kNearCopies / (near + 1));
    const int64_t of_row = axis_[2].targets * ceil_div(groups, parts_) * group_taps_ * int64_t(sizeof(A));
    direct_rows_ = least(copied_rows_, most(direct_rows_, kMapBytes / (of_row + 1)));
  }

  Copy copied(int64_t n, int64_t z, int64_t y0, int64_t y1, int64_t first, int64_t blocks, A* to) const {
    const int64_t width = axis_[2].sources;
    int64_t begin, end;
    rows_read(y0, y1 - y0, &begin, &end);
    const Copy copy{reinterpret_cast<T*>(to), first, begin, width * L, (end - begin) * width * L};
    for (int64_t y = begin; y < end; ++y) {
      const T* from = source_at(n, first * L, z, y);
      T* at = copy.data + (y - begin) * copy.row;
      for (int64_t x = 0; x < width; ++x, from += source_.stride[4], at += L) {
        for (int64_t b = 0; b < blocks; ++b) std::memcpy(at + b * copy.block, from + b * L, L * sizeof(T));
      }
    }
    return copy;
  }

  // groups [first, last) of target rows [y0, y1), with a map that is generated for some of them at a time or given
  void part_of_rows(int64_t n, int64_t z, int64_t y0, int64_t y1, int64_t first, int64_t last,
                    const Reads& planes) const {
    const int64_t chunks = group_width_ / L, width = axis_[2].targets, groups = last - first;
    const bool copies = copies_ && planes.count > 0;
    const int64_t kept = copies ? copied_size(groups * chunks) / int64_t(sizeof(A)) : 0;
    A* memory = scratch<A>(kept + (generator_ == nullptr ? 0 : direct_rows_ * width * map_pitch_));
    Copy copy{};
    if (copies) copy = copied(n, planes.source, y0, y1, first * chunks, groups * chunks, memory);
    for (int64_t some = y0; some < y1; some += direct_rows_) {
      const int64_t some_end = least(y1, some + direct_rows_);
      const A* generated = nullptr;
      if (generator_ != nullptr) {
        generated =
            generator_->rows(n, some, some_end, first * group_taps_, groups * group_taps_, memory + kept, map_pitch_);
      }
      for (int64_t g = first; g < last; g += near_groups_) {
        const int64_t end = least(last, g + near_groups_);
        for (int64_t y = some; y < some_end; ++y) {
          const Reads rows = inside(reads_of<Transposed>(axis_[1], y), axis_[1].sources);
          const auto with = [&](const auto& passes, const auto* map, int64_t map_group) {
            direct_row(passes, n, z, y, g, end, planes, rows, map + planes.map + rows.map, map_group,
                       copies ? &copy : nullptr);
          };
          if (generator_ != nullptr) {
            with(direct_passes_, generated + (y - some) * width * map_pitch_ + (g - first) * group_taps_, group_taps_);
          } else if constexpr (sizeof(T) == sizeof(A)) {
            with(direct_passes_, map_at(n, g), map_.stride[1]);
          } else if constexpr (std::is_same_v<Stored, Pairs>) {
            with(stored_passes_, map_at(n, g), map_.stride[1]);
          }
        }
      }
    }
  }

  // of groups [first, last)
  template <class U>
  void direct_row(const Passes<U>& all, int64_t n, int64_t z, int64_t y, int64_t first, int64_t last,
                  const Reads& planes, const Reads& rows, const typename Row<U>::Map* map, int64_t map_group,
                  const Copy* copy = nullptr) const {
    const int64_t chunks = group_width_ / L;
    const bool whole = chunks == 1;
    Row<U> r{};
    r.blocks = whole ? last - first : chunks;
    r.source_block = copy == nullptr ? L : copy->block;
    r.map_block = whole ? map_group : 0;
    r.planes = planes.count;
    r.source_plane = planes.source_step * source_.stride[2];
    r.rows = rows.count;
    r.source_row = rows.source_step * (copy == nullptr ? source_.stride[3] : copy->row);
    r.ahead = near_ || copy != nullptr ? 0 : Transposed ? -r.source_row : r.rows * r.source_row;
    set_map(r, planes, rows, map);
    for (int64_t g = first; g < last; g += whole ? r.blocks : 1, r.map += map_group) {
      const int64_t c = g * group_width_;
      r.source = source_at(n, c, planes.source, rows.source);
      if (copy != nullptr) {
        r.source = copy->data + (c / L - copy->first_block) * copy->block + (rows.source - copy->first_row) * copy->row;
      }
      r.target = target_at(n, c, z, y);
      if constexpr (kDirect) row(all, r, c, copy == nullptr ? source_.stride[4] : L, target_.stride[4]);
    }
  }

  template <class U>
  void set_map(Row<U>& r, const Reads& planes, const Reads& rows, const typename Row<U>::Map* map) const {
    r.map = map;
    r.map_plane = planes.map_step;
    r.map_row = rows.map_step;
    if (convert_map_ && !convert_band_) {
      r.map_row = taps_inside_ ? axis_[2].taps : axis_[2].taps * map_.size[7];
      r.map_plane = rows.count * r.map_row;
    }
  }

  // source rows that `band` target rows starting at y read: [begin, end)
  void rows_read(int64_t y, int64_t band, int64_t* begin, int64_t* end) const {
    *begin = axis_[1].sources;
    *end = 0;
    for (int64_t i = y; i < y + band; ++i) {
      const Reads r = inside(reads_of<Transposed>(axis_[1], i), axis_[1].sources);
      if (r.count == 0) continue;
      const int64_t last = r.source + (r.count - 1) * r.source_step;
      *begin = least(*begin, least(r.source, last));
      *end = most(*end, most(r.source, last) + 1);
    }
    *begin = least(*begin, *end);
  }

  // rows of the map that targets [y0, y1) read: [begin, end)
  void map_rows(int64_t y0, int64_t y1, int64_t* begin, int64_t* end) const {
    *begin = y0;
    *end = y1;
    if (Transposed) rows_read(y0, y1 - y0, begin, end);
  }

  // Target rows whose part of the map is converted together. In the gradient of the input neighbours read the same
  // rows, so there it is many even where they exceed the cache.
  int64_t converted_rows() const {
    int64_t band = least(axis_[1].targets, kDirectRows);
    while (!Transposed && band > 1 && band * axis_[1].map_pixel * int64_t(sizeof(A)) > kSlabBytes / 4) {
      band = (band + 1) / 2;
    }
    return band;
  }

  int64_t slab_rows(int64_t band) const {
    const Axis& a = axis_[1];
    const int64_t reach = Transposed ? (a.taps * a.dilation + band) / a.stride + 2
                                     : (band - 1) * a.stride + (a.taps - 1) * a.dilation + 1;
    return least(a.sources, reach);
  }

  int64_t slab_size(int64_t band) const {
    return least(axis_[0].taps, axis_[0].sources) * slab_rows(band) * axis_[2].sources * L;
  }

  // as many target rows as fit into the cache, fewer if threads would be idle
  int64_t band_rows() const {
    int64_t band = axis_[1].targets;
    const int64_t tasks = target_.size[0] * map_.size[1] * axis_[0].targets;
    if (parallel_.threads > 1) {
      band = least(band, most<int64_t>(1, tasks * axis_[1].targets / (4 * parallel_.threads)));
    }
    while (band > 1 && slab_size(band) * int64_t(sizeof(A)) > kSlabBytes) band = (band + 1) / 2;
    return convert_band_ ? least(band, converted_rows()) : band;
  }

  // through slabs [row][pixel][lane]
  void packed(int64_t task, int64_t bands, int64_t band) const {
    const int64_t y0 = task % bands * band, y1 = least(y0 + band, axis_[1].targets);
    task /= bands;
    const int64_t z = task % axis_[0].targets;
    task /= axis_[0].targets;
    const int64_t g = task % map_.size[1], n = task / map_.size[1];
    const int64_t width = axis_[2].sources, out_width = axis_[2].targets;
    const Reads planes = inside(reads_of<Transposed>(axis_[0], z), axis_[0].sources);
    int64_t begin, end;
    rows_read(y0, y1 - y0, &begin, &end);

    const int64_t plane_size = (end - begin) * width * L;
    int64_t map_begin = 0, map_end = 1;
    if (convert_band_) map_rows(y0, y1, &map_begin, &map_end);
    const int64_t generated = kBytes < 64 ? least(direct_rows_, y1 - y0) : 1;
    const int64_t map_size = convert_map_            ? (map_end - map_begin) * group_taps_ * map_.size[7]
                             : generator_ != nullptr ? generated * out_width * map_pitch_
                                                     : 0;
    A* slab = scratch<A>(planes.count * plane_size + round_up(map_size, L) + (y1 - y0) * out_width * L);
    A* map_slab = slab + planes.count * plane_size;
    A* out = map_slab + round_up(map_size, L);
    if constexpr (sizeof(T) != sizeof(A)) {
      if (convert_band_) convert_band(map_at(n, g), 1, map_begin, map_end, map_slab);
    }
    const A* generated_map = nullptr;
    for (int64_t c = 0; c < group_width_; c += L) {
      const int lanes = static_cast<int>(least<int64_t>(L, group_width_ - c));
      const int64_t channel = g * group_width_ + c;
      for (int64_t i = 0; i < planes.count; ++i) {
        pack_plane(source_at(n, channel, planes.source + i * planes.source_step, begin), end - begin, lanes,
                   slab + i * plane_size);
      }
      if (zero_ != 0) {
        for (int64_t i = 0; i < planes.count * plane_size; ++i) slab[i] -= zero_;
      }
      for (int64_t y = y0; y < y1; ++y) {
        const Reads rows = inside(reads_of<Transposed>(axis_[1], y), axis_[1].sources);
        const A* map = nullptr;
        if (generator_ != nullptr) {
          const int64_t after = (y - y0) % generated;
          if (after == 0) {
            generated_map =
                generator_->rows(n, y, least(y + generated, y1), g * group_taps_, group_taps_, map_slab, map_pitch_);
          }
          map = generated_map + after * out_width * map_pitch_ + rows.map;
        } else if constexpr (sizeof(T) == sizeof(A)) {
          map = map_at(n, g) + planes.map + rows.map;
        } else if (convert_band_) {
          map = map_slab + (rows.map - map_begin * axis_[1].map_pixel);
        } else {
          convert_map(map_at(n, g) + planes.map + rows.map, planes, rows, map_slab);
          map = map_slab;
        }
        Row<A> r{};
        r.source = slab + (rows.count ? rows.source - begin : 0) * width * L;
        r.planes = planes.count;
        r.source_plane = plane_size;
        r.rows = rows.count;
        r.source_row = rows.source_step * width * L;
        set_map(r, planes, rows, map);
        r.target = out + (y - y0) * out_width * L;
        r.blocks = 1;
        r.source_block = L;
        row(packed_passes_, r, channel, L, L);
      }
      unpack_plane(out, target_at(n, channel, z, y0), y1 - y0, lanes);
    }
  }

  void pack_plane(const T* from, int64_t rows, int lanes, A* slab) const {
    const int64_t width = axis_[2].sources;
    if (source_.stride[3] == width * source_.stride[4]) {
      pack_lanes(from, source_.stride[1], source_.stride[4], rows * width, lanes, slab);
      return;
    }
    for (int64_t i = 0; i < rows; ++i) {
      pack_lanes(from + i * source_.stride[3], source_.stride[1], source_.stride[4], width, lanes,
                 slab + i * width * L);
    }
  }

  void unpack_plane(const A* slab, T* to, int64_t rows, int lanes) const {
    const int64_t width = axis_[2].targets;
    if (target_.stride[3] == width * target_.stride[4]) {
      unpack_lanes(slab, to, target_.stride[1], target_.stride[4], rows * width, lanes);
      return;
    }
    for (int64_t i = 0; i < rows; ++i) {
      unpack_lanes(slab + i * width * L, to + i * target_.stride[3], target_.stride[1], target_.stride[4], width,
                   lanes);
    }
  }

  // rows [begin, end) of some groups' map with all their taps: [row][pixel][group][tap]
  void convert_band(const T* from, int64_t groups, int64_t begin, int64_t end, A* to) const {
    // what lies together in both is one run
    const bool near = map_.stride[1] == group_taps_ || groups == 1;
    const bool whole = near && groups == converted_ && map_.stride[7] == groups * group_taps_;
    const int64_t pixels = whole ? 1 : map_.size[7], runs = near ? 1 : groups;
    const int64_t run = (near ? groups : 1) * group_taps_ * (whole ? map_.size[7] : 1);
    for (int64_t y = begin; y < end; ++y, to += axis_[1].map_pixel) {
      const T* at = from + y * map_.stride[6];
      for (int64_t j = 0; j < pixels; ++j, at += map_.stride[7]) {
        for (int64_t i = 0; i < run && !whole; i += kLine / int64_t(sizeof(T))) {
          __builtin_prefetch(at + 4 * map_.stride[7] + i);
        }
        for (int64_t i = 0; i < runs; ++i) {
          widen_run(at + i * map_.stride[1], 1, run, to + (j * converted_ + i) * group_taps_);
        }
      }
    }
  }

  // The map's rows that one target row reads, in the map's own order: [pixel][plane][row][tap] or
  // [plane][row][tap][pixel].
  void convert_map(const T* from, const Reads& planes, const Reads& rows, A* to) const {
    const int64_t pixels = map_.size[7], taps = axis_[2].taps, lines = planes.count * rows.count;
    if (taps_inside_ && planes.count == 1 && rows.map_step == taps) {
      for (int64_t j = 0; j < pixels; ++j) {
        widen_run(from + j * axis_[2].map_pixel, 1, rows.count * taps, to + j * group_taps_);
      }
      return;
    }
    for (int64_t i = 0; i < lines; ++i) {
      const T* at = from + i / rows.count * planes.map_step + i % rows.count * rows.map_step;
      if (taps_inside_) {
        for (int64_t j = 0; j < pixels; ++j) {
          widen_run(at + j * axis_[2].map_pixel, 1, taps, to + j * group_taps_ + i * taps);
        }
      } else {
        for (int64_t v = 0; v < taps; ++v, to += pixels) {
          widen_run(at + v * axis_[2].map_tap, axis_[2].map_pixel, pixels, to);
        }
      }
    }
  }

  // what fits into a core's cache, and what exceeds all caches, where targets would only evict what is still to be
  // read
  static constexpr int64_t kNearBytes = 1 << 20, kStreamedBytes = 32 << 20;
  // Columns so far apart that a tile's share few sets of the nearest cache, and what of their copies is to stay in it,
  // and of a generated map in the next.
  static constexpr int64_t kFarColumns = 512, kNearCopies = 24 << 10, kMapBytes = 96 << 10;
  // more sources are not near enough: a copy waits for them, as the sums do not
  static constexpr int64_t kCopiedBytes = 2 << 20;
  // rows of a band that still leave the sources of all its groups in the cache
  static constexpr int64_t kDirectRows = 16;
  // pixels whose maps are generated together: enough for the span weights to be used again from the nearest cache
  static constexpr int64_t kGeneratedPixels = 56;

  Activation source_, target_;
  Map map_;
  const A zero_;
  const G* generator_;
  const Finish<A> finish_;
  const Parallel& parallel_;
  Axis axis_[3];
  // the last axis with the strides of the map that the row kernel reads
  Axis columns_;
  Passes<T> direct_passes_;
  Passes<Stored> stored_passes_;
  Passes<A> packed_passes_;
  int64_t parts_, direct_rows_, group_width_, group_taps_, map_pitch_ = 0, converted_ = 1;
  int64_t copied_rows_ = 0, near_groups_;
  bool copies_, direct_, by_group_, paired_, convert_map_, convert_band_, taps_inside_, near_, stream_;
};

template <bool Transposed>
void gather(const Problem& p, const Parallel& parallel) {
  with_type(p.type, [&](auto type) { Gather<decltype(type), Transposed>(p, parallel).run(); });
}

template <class T, class G = GeneratorOf<T>>
void generated_gather(const Problem& p, const Span& span, const Epilogue& e, const Parallel& parallel) {
  using A = typename Arithmetic<T>::type;
  // the type of the epilogue's numbers
  using E = std::conditional_t<std::is_same_v<T, UInt8>, A, T>;
  G generator(span);
  generator.prepare(parallel);
  Finish<A> finish;
  Scratch memory;
  if (e.scale != nullptr || e.shift != nullptr || e.relu) {
    const int64_t channels = p.output.size[1], size = channels + kLanes<A>;
    A* scale = static_cast<A*>(memory.reserve(2 * size * int64_t(sizeof(A))));
    A* shift = scale + size;
    for (int64_t c = 0; c < size; ++c) {
      scale[c] = e.scale != nullptr && c < channels ? load_one(static_cast<const E*>(e.scale) + c) : A(1);
      shift[c] = e.shift != nullptr && c < channels ? load_one(static_cast<const E*>(e.shift) + c) : A(0);
    }
    finish = {scale, shift, e.relu};
  }
  Gather<T, false, G>(p, parallel, &generator, finish).run();
}

void dynamic_forward(const Problem& p, const Span& span, const Epilogue& e, const Parallel& parallel) {
  if constexpr (kPairs) {
    if (p.type == Type::bf16 && multiplies_pairs()) {
      return generated_gather<BFloat16, Generator<BFloat16, true>>(p, span, e, parallel);
    }
  }
  with_type(p.type, [&](auto type) { generated_gather<decltype(type)>(p, span, e, parallel); });
}

void quantised_forward(const Problem& p, const Span& span, const Epilogue& e, const Parallel& parallel) {
  generated_gather<UInt8>(p, span, e, parallel);
}

}  // namespace
}  // namespace involution
