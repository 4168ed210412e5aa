// Classifies a picture with a file of `involution export --format openvino` and this package's extension, without
// Python: classify MODEL.xml EXTENSION.so PICTURE [HOW_MANY]
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <numeric>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.h"

#ifdef WITH_STB
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>
#endif

namespace {

using std::size_t;

// 8-bit pixels [height, width, 3], RGB
struct Picture {
  size_t height = 0, width = 0;
  std::vector<uint8_t> pixels;
};

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

Picture read_ppm(const std::string& path, std::ifstream& file) {
  const auto number = [&] {
    while (file >> std::ws && file.peek() == '#') file.ignore(1 << 16, '\n');
    size_t found = 0;
    file >> found;
    return found;
  };
  Picture picture;
  picture.width = number();
  picture.height = number();
  const size_t most = number(), largest = size_t(1) << 15;
  file.get();
  if (!file || most != 255 || picture.width - 1 >= largest || picture.height - 1 >= largest) {
    fail(path + ": not a PPM of 8 bits and at most 32768 pixels a side");
  }
  picture.pixels.resize(picture.height * picture.width * 3);
  if (!file.read(reinterpret_cast<char*>(picture.pixels.data()), std::streamsize(picture.pixels.size()))) {
    fail(path + ": is cut off");
  }
  return picture;
}

// EXIF orientation is not applied
Picture read_picture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path + ": can't be read");
  if (file.get() == 'P' && file.get() == '6') return read_ppm(path, file);
#ifdef WITH_STB
  int width = 0, height = 0, channels = 0;
  uint8_t* pixels = stbi_load(path.c_str(), &width, &height, &channels, 3);
  if (pixels == nullptr) fail(path + ": " + stbi_failure_reason());
  Picture picture{size_t(height), size_t(width), {}};
  picture.pixels.assign(pixels, pixels + picture.height * picture.width * 3);
  stbi_image_free(pixels);
  return picture;
#else
  fail(path + ": not a PPM (P6); this program was built without stb_image.h, which reads JPEG, PNG and BMP");
#endif
}

// ITU-R 601, in whole numbers
void to_grey(Picture& picture) {
  const size_t count = picture.height * picture.width;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* p = &picture.pixels[3 * i];
    picture.pixels[i] = uint8_t((19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 0x8000) >> 16);
  }
  picture.pixels.resize(count);
}

// Puts what is done to a picture of this size in front of the network: the shorter side is resized, the centre cut out,
// the values are normalised.
std::shared_ptr<ov::Model> with_preprocessing(const std::shared_ptr<ov::Model>& model, const Json& how, size_t height,
                                              size_t width, size_t channels) {
  const auto resized = [&](size_t one) {
    return size_t(how["resize"].number * double(one) / double(std::min(height, width)));
  };
  const size_t resized_height = resized(height), resized_width = resized(width);
  const int side = int(how["crop"].number);
  // half to even, as Python rounds
  const int top = int(std::nearbyint(double(int(resized_height) - side) / 2));
  const int left = int(std::nearbyint(double(int(resized_width) - side) / 2));
  std::vector<float> mean = how["mean"].numbers(), deviation = how["std"].numbers();
  for (std::vector<float>* values : {&mean, &deviation}) {
    for (float& value : *values) value *= 255;
  }
  using ov::preprocess::ResizeAlgorithm;
  const bool cubic = how["interpolation"].text == "bicubic";
  const auto resize = cubic ? ResizeAlgorithm::RESIZE_BICUBIC_PILLOW : ResizeAlgorithm::RESIZE_BILINEAR_PILLOW;
  ov::preprocess::PrePostProcessor steps(model);
  steps.input()
      .tensor()
      .set_element_type(ov::element::u8)
      .set_layout("NHWC")
      .set_shape({1, int64_t(height), int64_t(width), int64_t(channels)});
  steps.input().model().set_layout("NCHW");
  steps.input()
      .preprocess()
      .resize(resize, resized_height, resized_width)
      .crop({0, top, left, 0}, {1, top + side, left + side, int(channels)})
      .convert_element_type(ov::element::f32)
      .mean(mean)
      .scale(deviation)
      .convert_layout("NCHW");
  return steps.build();
}

void classify(const std::string& file, const std::string& extension, const std::string& path, size_t how_many) {
  ov::Core core;
  core.add_extension(extension);
  std::shared_ptr<ov::Model> model = core.read_model(file);
  if (!model->has_rt_info("involution")) fail(file + ": not a file of `involution export --format openvino`");
  const Json about = JsonReader(model->get_rt_info<std::string>("involution")).read();
  const Json& how = about["preprocessing"];
  if (about["task"].text != "classify") fail(file + ": made for the task " + about["task"].text + ", wanted classify");
  if (!how["in_graph"].list.empty()) fail(file + ": wanted a file that was exported without --with-preprocessing");

  Picture picture = read_picture(path);
  const size_t channels = how["channels"].text == "L" ? 1 : 3;
  if (channels == 1) to_grey(picture);
  model = with_preprocessing(model, how, picture.height, picture.width, channels);
  // what PyTorch computes, also on processors with half-precision units
  ov::CompiledModel network = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32));
  ov::InferRequest request = network.create_infer_request();
  request.set_input_tensor({ov::element::u8, {1, picture.height, picture.width, channels}, picture.pixels.data()});
  request.infer();

  const ov::Tensor output = request.get_output_tensor();
  const float* logits = output.data<float>();
  const std::vector<Json>& classes = about["classes"].list;
  if (output.get_size() != classes.size()) fail(file + ": has another number of classes than outputs");
  const float highest = *std::max_element(logits, logits + classes.size());
  std::vector<double> scores(classes.size());
  std::transform(logits, logits + classes.size(), scores.begin(),
                 [&](float x) { return std::exp(double(x - highest)); });
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  std::vector<size_t> order(classes.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(how_many, order.size()));
  for (const size_t i : order) std::printf("%.4f  %s\n", scores[i] / sum, classes[i].text.c_str());
}

}  // namespace

int main(int count, char** words) {
  if (count != 4 && count != 5) {
    std::cerr << "usage: classify MODEL.xml EXTENSION.so PICTURE [HOW_MANY]\n";
    return 2;
  }
  try {
    classify(words[1], words[2], words[3], count == 5 ? std::stoul(words[4]) : 5);
  } catch (const std::exception& error) {
    std::cerr << "classify: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
