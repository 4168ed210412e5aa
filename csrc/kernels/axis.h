// Which sources a target reads along one axis, for both gathers.
//
// Forward: output i reads input i·s − p + v·d with tap v of the map at i.
// Gradient of the input: input x reads each output j with j·s − p + v·d = x, with tap v of the map at j.
// Both amount to the same: a target reads sources at a fixed step with map elements at a fixed step.
#pragma once

#include "simd.h"

namespace involution {
namespace {

struct Axis {
  int64_t targets, sources, taps;
  int64_t stride, padding, dilation;
  // the map's strides along this axis
  int64_t map_pixel, map_tap;
};

// taps of one target: source + m·source_step and map + m·map_step for m < count
struct Reads {
  int64_t count, source, source_step, map, map_step;
};

template <bool Transposed>
INVOLUTION_INLINE Reads reads_of(const Axis& a, int64_t target) {
  if (!Transposed) {
    return {a.taps, target * a.stride - a.padding, a.dilation, target * a.map_pixel, a.map_tap};
  }
  if (a.stride == 1) {
    return {a.taps, target + a.padding, -a.dilation, (target + a.padding) * a.map_pixel,
            a.map_tap - a.dilation * a.map_pixel};
  }
  const int64_t h = gcd(a.stride, a.dilation), tap_step = a.stride / h, place = target + a.padding;
  const int64_t some = least(tap_step, a.taps);
  int64_t first = 0;
  while (first < some && (place - first * a.dilation) % a.stride != 0) ++first;
  if (first == some) return {0, 0, 1, 0, 0};
  const int64_t source = (place - first * a.dilation) / a.stride, step = a.dilation / h;
  return {(a.taps - 1 - first) / tap_step + 1, source, -step, source * a.map_pixel + first * a.map_tap,
          tap_step * a.map_tap - step * a.map_pixel};
}

// only those inside
INVOLUTION_INLINE Reads inside(Reads r, int64_t sources) {
  int64_t begin = 0, end = r.count;
  // the usual steps, without divisions
  if (r.source_step == 1) {
    begin = most<int64_t>(0, -r.source);
    end = least(end, sources - r.source);
    return {most<int64_t>(0, end - begin), r.source + begin, 1, r.map + begin * r.map_step, r.map_step};
  }
  if (r.source_step == -1) {
    begin = most<int64_t>(0, r.source - sources + 1);
    end = least(end, r.source + 1);
    return {most<int64_t>(0, end - begin), r.source - begin, -1, r.map + begin * r.map_step, r.map_step};
  }
  if (r.source_step > 0) {
    begin = most<int64_t>(0, ceil_div(-r.source, r.source_step));
    end = least(end, ceil_div(sources - r.source, r.source_step));
  } else {
    begin = most<int64_t>(0, ceil_div(r.source - sources + 1, -r.source_step));
    end = least(end, ceil_div(r.source + 1, -r.source_step));
  }
  return {most<int64_t>(0, end - begin), r.source + begin * r.source_step, r.source_step, r.map + begin * r.map_step,
          r.map_step};
}

// Targets first + t·step, t < count, in which tap m of target t reads column t·stride + m, the columns being the
// sources column + c·column_step, with map element map + t·map_target + m·map_tap.
struct Phase {
  int64_t first, step, count;
  int64_t taps, stride;
  int64_t column, column_step;
  // columns inside the source
  int64_t low, high;
  int64_t map, map_target, map_tap;
};

// phases of the gradient of the input: targets of one remainder modulo the stride, in `of_stride` parts of
// `of_dilation`
struct Phases {
  int64_t of_stride, of_dilation;
};

// only phases with a target: there are no more of them than targets, however large stride and dilation are
template <bool Transposed>
INVOLUTION_INLINE Phases phases_of(const Axis& a) {
  const int64_t d = a.dilation / gcd(a.stride, a.dilation);
  if (!Transposed) return {1, least(d, a.targets)};
  return {least(a.stride, a.targets), least(d, ceil_div(a.targets, a.stride))};
}

template <bool Transposed>
INVOLUTION_INLINE int64_t phase_count(const Axis& a) {
  const Phases phases = phases_of<Transposed>(a);
  return phases.of_stride * phases.of_dilation;
}

template <bool Transposed>
INVOLUTION_INLINE Phase phase_of(const Axis& a, int64_t index) {
  const int64_t h = gcd(a.stride, a.dilation), d = a.dilation / h;
  Phase p;
  if (Transposed) {
    const Phases phases = phases_of<true>(a);
    p.first = index / phases.of_dilation + a.stride * (index % phases.of_dilation);
    p.step = a.stride * d;
    Reads r = reads_of<true>(a, p.first);
    const int64_t last = r.count - 1;
    p.taps = r.count;
    p.stride = 1;
    p.column = r.source + last * r.source_step;
    p.column_step = d;
    p.map = r.map + last * r.map_step;
    p.map_target = d * a.map_pixel;
    p.map_tap = -r.map_step;
  } else {
    p.first = index;
    p.step = d;
    p.taps = a.taps;
    p.stride = a.stride / h;
    p.column = index * a.stride - a.padding;
    p.column_step = a.dilation;
    p.map = index * a.map_pixel;
    p.map_target = d * a.map_pixel;
    p.map_tap = a.map_tap;
  }
  p.count = p.first < a.targets ? (a.targets - p.first - 1) / p.step + 1 : 0;
  p.low = ceil_div(-p.column, p.column_step);
  p.high = ceil_div(a.sources - p.column, p.column_step);
  return p;
}

}  // namespace
}  // namespace involution
