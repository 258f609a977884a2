// SHA-256: the examples of FIPS 180-4's validation set, and every length round the end of a block.
#include <cstddef>
#include <string>

#include "check.h"
#include "deploykit/sha256.h"

namespace {

using namespace deploykit;

void test() {
  CHECK(sha256_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256_of(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // 55, 56 and 64 bytes: the length fits into the last block, does not, and begins a block of its own.
  CHECK(sha256_of(std::string(55, 'a')) == "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  CHECK(sha256_of(std::string(56, 'a')) == "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
  CHECK(sha256_of(std::string(64, 'a')) == "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  for (std::size_t size = 0; size < 200; ++size) {
    const std::string data(size, 'x');
    for (std::size_t cut = 0; cut <= size; cut += 7) {
      Sha256 pieces;
      pieces.update(std::string_view(data).substr(0, cut));
      pieces.update(std::string_view(data).substr(cut));
      CHECK(pieces.finish() == sha256_of(data));
    }
  }
}

}  // namespace

int main() {
  return check::run(test);
}
