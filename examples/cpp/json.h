// Just enough JSON to read what an exported file says of itself.
#pragma once

#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct Json {
  enum Kind { kNull, kBool, kNumber, kText, kList, kObject } kind = kNull;
  double number = 0;  // 0 or 1 of a bool
  std::string text;
  std::vector<Json> list;
  std::map<std::string, Json> object;

  const Json& operator[](const std::string& name) const {
    const auto found = object.find(name);
    if (found == object.end()) throw std::runtime_error("the file says nothing about " + name);
    return found->second;
  }

  std::vector<float> numbers() const {
    std::vector<float> found;
    for (const Json& one : list) found.push_back(static_cast<float>(one.number));
    return found;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : at_(text.c_str()) {}

  Json read(int depth = 0) {
    if (depth > 50) fail();
    Json found;
    switch (peek()) {
      case '{':
        found.kind = Json::kObject;
        sequence('}', [&] {
          std::string name = quoted();
          expect(':');
          found.object[std::move(name)] = read(depth + 1);
        });
        break;
      case '[':
        found.kind = Json::kList;
        sequence(']', [&] { found.list.push_back(read(depth + 1)); });
        break;
      case '"':
        found.kind = Json::kText;
        found.text = quoted();
        break;
      default:
        if (word("null")) break;
        found.kind = Json::kBool;
        if (word("true"))
          found.number = 1;
        else if (!word("false")) {
          found.kind = Json::kNumber;
          char* end = nullptr;
          found.number = std::strtod(at_, &end);
          if (end == at_) fail();
          at_ = end;
        }
    }
    return found;
  }

 private:
  [[noreturn]] static void fail() { throw std::runtime_error("what the file says of itself is not JSON"); }

  char peek() {
    while (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t') ++at_;
    return *at_;
  }

  void expect(char wanted) {
    if (peek() != wanted) fail();
    ++at_;
  }

  bool word(const char* wanted) {
    const size_t length = std::strlen(wanted);
    if (std::strncmp(at_, wanted, length) != 0) return false;
    at_ += length;
    return true;
  }

  template <class Read>
  void sequence(char end, const Read& one) {
    ++at_;
    if (peek() == end) {
      ++at_;
      return;
    }
    for (one(); peek() == ','; one()) ++at_;
    expect(end);
  }

  std::string quoted() {
    expect('"');
    std::string found;
    for (; *at_ != '"'; ++at_) {
      if (*at_ == 0) fail();
      found += *at_ == '\\' ? escaped() : std::string(1, *at_);
    }
    ++at_;
    return found;
  }

  // what follows a backslash; \u only for one byte, as other characters stand in the file as they are
  std::string escaped() {
    static const std::map<char, char> plain = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'b', '\b'},
                                               {'f', '\f'}, {'"', '"'},  {'/', '/'},  {'\\', '\\'}};
    const auto known = plain.find(*++at_);
    if (known != plain.end()) return {known->second};
    const std::string digits = *at_ == 'u' ? std::string(at_ + 1, strnlen(at_ + 1, 4)) : "";
    const long code = digits.size() == 4 ? std::strtol(digits.c_str(), nullptr, 16) : 0;
    if (code <= 0 || code > 0x7f) fail();
    at_ += 4;
    return {static_cast<char>(code)};
  }

  const char* at_;
};
