// The geometry and the workspace of ResizeNormalize on more sizes than a test in Python has time for.
#include "../resize_normalize/resize_geometry.h"
#include "check.h"

namespace {

using namespace deploykit;

ResizeSpec make_spec(std::int32_t height, std::int32_t width, std::int32_t resize_size, Filter filter) {
  ResizeSpec spec;
  spec.height = height, spec.width = width, spec.resize_size = resize_size, spec.filter = filter;
  return spec;
}

// Every span lies inside the photo, no pixel has more taps than its table has rows, and the second pass reads what the first
// wrote.
void check_axis(const Axis& axis, Filter filter) {
  const std::int32_t most = most_taps(filter_stretch(axis), filter);
  Span before{0, 0};
  for (std::int32_t i = 0; i < axis.count; ++i) {
    const Span span = tap_span(axis, filter, i);
    CHECK(span.first >= 0 && span.count >= 1 && span.first + span.count <= axis.photo && span.count <= most);
    CHECK(span.first >= before.first && span.first + span.count >= before.first + before.count);
    before = span;
  }
}

void check_photo(std::int32_t height, std::int32_t width, const ResizeSpec& spec) {
  CHECK(photo_error(height, width, spec) == nullptr);
  const Geometry geometry = make_geometry(height, width, spec);
  for (const Axis& axis : {geometry.x, geometry.y}) {
    check_axis(axis, spec.filter);
    CHECK(axis.start >= 0 && axis.start + axis.count <= axis.resized);
    CHECK(2 * axis.start - (axis.resized - axis.count) <= 1 && 2 * axis.start - (axis.resized - axis.count) >= -1);
  }
  CHECK(make_workspace(geometry, spec.filter).bytes <= workspace_bound(height, width, spec));
}

void a_bound_holds_for_every_smaller_photo(const ResizeSpec& spec) {
  constexpr std::int32_t most_rows = 97, most_columns = 61;
  const std::size_t bound = workspace_bound(most_rows, most_columns, spec);
  for (std::int32_t height = 1; height <= most_rows; ++height) {
    for (std::int32_t width = 1; width <= most_columns; ++width) {
      CHECK(make_workspace(make_geometry(height, width, spec), spec.filter).bytes <= bound);
    }
  }
}

void errors_are_found() {
  CHECK(spec_error(make_spec(224, 224, 256, Filter::kBicubic)) == nullptr);
  CHECK(spec_error(make_spec(0, 224, 256, Filter::kBicubic)) != nullptr);
  CHECK(spec_error(make_spec(224, 65536, 0, Filter::kBicubic)) != nullptr);
  CHECK(spec_error(make_spec(224, 224, 223, Filter::kBicubic)) != nullptr);
  CHECK(spec_error(make_spec(224, 224, 256, static_cast<Filter>(2))) != nullptr);
  ResizeSpec other = make_spec(224, 224, 0, Filter::kBilinear);
  other.channels[1] = 3;
  CHECK(spec_error(other) != nullptr);
  const ResizeSpec spec = make_spec(224, 224, 256, Filter::kBilinear);
  CHECK(photo_error(65535, 65535, spec) == nullptr);
  CHECK(photo_error(0, 10, spec) != nullptr);
  CHECK(photo_error(10, 65536, spec) != nullptr);
  CHECK(photo_error(1, 65535, make_spec(1, 1, 65535, Filter::kBilinear)) != nullptr);
}

}  // namespace

int main() {
  errors_are_found();
  for (const Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
    for (const ResizeSpec& spec : {make_spec(1, 1, 0, filter), make_spec(1, 1, 1, filter), make_spec(7, 5, 7, filter),
                                   make_spec(8, 8, 9, filter), make_spec(5, 9, 0, filter), make_spec(32, 24, 41, filter)}) {
      for (std::int32_t height = 1; height <= 60; ++height) {
        for (std::int32_t width = 1; width <= 60; ++width) check_photo(height, width, spec);
      }
      a_bound_holds_for_every_smaller_photo(spec);
    }
    check_photo(65535, 3, make_spec(224, 224, 256, filter));
    check_photo(2160, 3840, make_spec(224, 224, 256, filter));
    check_photo(65535, 65535, make_spec(224, 160, 0, filter));
  }
  return failures == 0 ? 0 : 1;
}
