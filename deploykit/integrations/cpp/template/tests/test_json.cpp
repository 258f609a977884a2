// The JSON reader takes what RFC 8259 allows and nothing else.
#include <string>

#include "check.h"
#include "deploykit/json.h"

namespace {

using namespace deploykit;

void test() {
  const Json json = read_json(" {\"a\": [1, -0.5e+3, true, null], \"t\": \"\\\"\\u00e4\\ud83d\\ude00\\n\xc3\xa4\", \"o\": {}} ");
  CHECK(json.find("a")->items.size() == 4 && json.find("a")->items[1].text == "-0.5e+3" && json.find("a")->items[2].boolean);
  CHECK(json.find("a")->items[3].kind == Json::Kind::null);
  CHECK(json.find("t")->text == "\"\xc3\xa4\xf0\x9f\x98\x80\n\xc3\xa4");
  CHECK(json.find("o")->fields.empty() && json.find("b") == nullptr);
  REFUSED(read_json(""), "expected a value at byte 0");
  for (const char* wrong : {"{",
                            "[",
                            "\"",
                            "\"\\",
                            "\"\\u12",
                            "[1,]",
                            "{\"a\":1,}",
                            "{a:1}",
                            "{\"a\" 1}",
                            "01",
                            "1.",
                            "1e",
                            "+1",
                            "-",
                            ".5",
                            "NaN",
                            "Infinity",
                            "nul",
                            "[1] 2",
                            "'a'",
                            "\"a\nb\"",
                            "\"\\x\"",
                            "\"\\ud800\"",
                            "\"\\udc00\"",
                            "\"\\ud800\\u0041\"",
                            "// c\n1",
                            "\xef\xbb\xbf{}"}) {
    REFUSED(read_json(wrong), "at byte");
  }
  REFUSED(read_json("{\"a\": 1, \"a\": 2}"), "\"a\" stands twice");
  for (const char* wrong : {"\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xe4\"", "\"\xc3\""})
    REFUSED(read_json(wrong), "not UTF-8");
  REFUSED(read_json(std::string(100000, '[')), "nested too deeply");
}

}  // namespace

int main() {
  return check::run(test);
}
