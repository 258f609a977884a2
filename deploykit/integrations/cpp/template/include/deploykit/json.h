// A strict reader of small JSON documents (RFC 8259): plan.json.
//
// Refused: anything behind the value, comments, trailing commas, NaN, names that stand twice in an object, bytes that are not
// UTF-8, lone surrogates, and nesting deeper than 64, so that a document cannot exhaust the stack.
#ifndef DEPLOYKIT_JSON_H
#define DEPLOYKIT_JSON_H

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deploykit/error.h"

namespace deploykit {

struct Json {
  enum class Kind : std::uint8_t { null, boolean, number, text, list, object };

  Kind kind = Kind::null;
  bool boolean = false;
  std::string text;  // of a number: its digits as they stand in the document
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> fields;

  // A field of an object; nullptr where there is none.
  const Json* find(std::string_view name) const noexcept {
    for (const auto& [key, value] : fields) {
      if (key == name) return &value;
    }
    return nullptr;
  }
};

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  // Throws Error with the place, counted in bytes from 0.
  Json read() {
    Json value = read_value(0);
    skip_space();
    if (at_ != text_.size()) fail("something stands behind the value");
    return value;
  }

 private:
  static constexpr int most_depth = 64;

  [[noreturn]] void fail(const std::string& what) const { throw Error(what + " at byte " + std::to_string(at_)); }

  bool is_at_end() const noexcept { return at_ == text_.size(); }
  char peek() const noexcept { return is_at_end() ? '\0' : text_[at_]; }
  bool take(char wanted) noexcept {
    const bool is_there = !is_at_end() && text_[at_] == wanted;
    at_ += is_there ? 1 : 0;
    return is_there;
  }
  void skip_space() noexcept {
    while (!is_at_end() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r')) ++at_;
  }
  bool take_word(std::string_view word) noexcept {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json read_value(int depth) {
    if (depth > most_depth) fail("nested too deeply");
    skip_space();
    Json value;
    if (take('{')) {
      read_object(value, depth);
    } else if (take('[')) {
      read_list(value, depth);
    } else if (peek() == '"') {
      value.kind = Json::Kind::text;
      value.text = read_text();
    } else if (take_word("true")) {
      value.kind = Json::Kind::boolean;
      value.boolean = true;
    } else if (take_word("false")) {
      value.kind = Json::Kind::boolean;
    } else if (!take_word("null")) {
      value.kind = Json::Kind::number;
      value.text = read_number();
    }
    return value;
  }

  void read_object(Json& value, int depth) {
    value.kind = Json::Kind::object;
    skip_space();
    if (take('}')) return;
    do {
      skip_space();
      std::string name = read_text();
      if (value.find(name) != nullptr) fail("\"" + name + "\" stands twice");
      skip_space();
      if (!take(':')) fail("expected ':'");
      value.fields.emplace_back(std::move(name), read_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take('}')) fail("expected ',' or '}'");
  }

  void read_list(Json& value, int depth) {
    value.kind = Json::Kind::list;
    skip_space();
    if (take(']')) return;
    do {
      value.items.push_back(read_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) fail("expected ',' or ']'");
  }

  std::string read_number() {
    const std::size_t start = at_;
    take('-');
    const auto digits = [&] {
      const std::size_t first = at_;
      while (std::isdigit(static_cast<unsigned char>(peek())) != 0) ++at_;
      if (at_ == first) fail("expected a value");
    };
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    return std::string(text_.substr(start, at_ - start));
  }

  std::string read_text() {
    if (!take('"')) fail("expected '\"'");
    std::string text;
    while (!take('"')) {
      if (is_at_end()) fail("a text does not end");
      const auto byte = static_cast<unsigned char>(text_[at_]);
      if (byte < 0x20) fail("a control character stands in a text");
      if (take('\\')) {
        read_escape(text);
      } else {
        const std::size_t size = utf8_size(text_.substr(at_));
        if (size == 0) fail("not UTF-8");
        text += text_.substr(at_, size);
        at_ += size;
      }
    }
    return text;
  }

  void read_escape(std::string& text) {
    static constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    const char name = peek();
    ++at_;
    if (const std::size_t found = names.find(name); found != std::string_view::npos) {
      text += values[found];
      return;
    }
    if (name != 'u') fail("unknown escape");
    std::uint32_t code = read_hex();
    if (code >= 0xd800 && code < 0xdc00 && take_word("\\u")) {
      const std::uint32_t low = read_hex();
      if (low < 0xdc00 || low > 0xdfff) fail("a lone surrogate");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code >= 0xd800 && code <= 0xdfff) fail("a lone surrogate");
    append_utf8(text, code);
  }

  std::uint32_t read_hex() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char digit = peek();
      if (std::isxdigit(static_cast<unsigned char>(digit)) == 0) fail("expected four hexadecimal digits");
      const int value = digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10;
      code = code << 4 | static_cast<std::uint32_t>(value);
    }
    return code;
  }

  static void append_utf8(std::string& text, std::uint32_t code) {
    const auto put = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
    } else {
      put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
    }
  }

  // Bytes of the character that a text begins with; 0 where it is not UTF-8 (RFC 3629: no overlong forms, no surrogates).
  static std::size_t utf8_size(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    const unsigned first = byte(0);
    if (first < 0x80) return 1;
    const std::size_t size = first >= 0xc2 && first < 0xe0   ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
    for (std::size_t i = 1; i < size; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return 0;
    }
    const bool is_wrong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
                          (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f);
    return is_wrong ? 0 : size;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// Read a document. Throws Error with what is wrong and where.
inline Json read_json(std::string_view text) {
  return JsonReader(text).read();
}

}  // namespace deploykit

#endif
