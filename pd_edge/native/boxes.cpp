// Overlap of rotated boxes, non-maximum suppression and points in boxes.
// Readable numpy twins: pd_edge/boxes_reference.py.
//
// A box is a row of seven doubles: x y z length width height yaw, geometric centre, metres, radians. The Python side has
// checked shape, finiteness and sign of every array that arrives here. The interpreter lock is released while computing.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Indices = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

constexpr int kBoxColumns = 7;
constexpr int kPlacedColumns = 8;

struct Box {
  double x, y, z, half_length, half_width, half_height, cos_yaw, sin_yaw;
  double reach_x, reach_y;  // half extents of the axis-aligned rectangle around the footprint

  double area() const { return 4.0 * half_length * half_width; }
  double volume() const { return area() * 2.0 * half_height; }
};

struct Point {
  double x, y;
};

// Clipping a convex quadrilateral by four lines gives at most eight vertices; rounding can add a few.
struct Polygon {
  std::array<Point, 32> vertices;
  int size = 0;

  void add(Point p) { vertices[size++] = p; }
};

Box read_box(const double* row) {
  Box box{row[0], row[1], row[2], row[3] / 2, row[4] / 2, row[5] / 2, std::cos(row[6]), std::sin(row[6]), 0, 0};
  box.reach_x = std::abs(box.cos_yaw) * box.half_length + std::abs(box.sin_yaw) * box.half_width;
  box.reach_y = std::abs(box.sin_yaw) * box.half_length + std::abs(box.cos_yaw) * box.half_width;
  return box;
}

std::vector<Box> read_boxes(const Doubles& rows) {
  std::vector<Box> boxes;
  const auto count = static_cast<std::size_t>(rows.shape(0));
  boxes.reserve(count);
  for (std::size_t i = 0; i < count; ++i) boxes.push_back(read_box(rows.data() + i * kBoxColumns));
  return boxes;
}

bool apart(const Box& a, const Box& b) {
  return std::abs(a.x - b.x) >= a.reach_x + b.reach_x || std::abs(a.y - b.y) >= a.reach_y + b.reach_y;
}

// Corners of a's footprint in the frame of b, counter-clockwise.
Polygon footprint_in(const Box& a, const Box& b) {
  const double dx = a.x - b.x, dy = a.y - b.y;
  const double x = dx * b.cos_yaw + dy * b.sin_yaw, y = dy * b.cos_yaw - dx * b.sin_yaw;
  const double c = a.cos_yaw * b.cos_yaw + a.sin_yaw * b.sin_yaw;
  const double s = a.sin_yaw * b.cos_yaw - a.cos_yaw * b.sin_yaw;
  const double lx = c * a.half_length, ly = s * a.half_length, wx = -s * a.half_width, wy = c * a.half_width;
  Polygon polygon;
  polygon.add({x + lx + wx, y + ly + wy});
  polygon.add({x - lx + wx, y - ly + wy});
  polygon.add({x - lx - wx, y - ly - wy});
  polygon.add({x + lx - wx, y + ly - wy});
  return polygon;
}

// Keeps the part of the polygon with sign * coordinate <= bound. The line is parallel to an axis, so that a crossing
// lies on it exactly and collinear edges need no tolerance.
template <double Point::*Across, double Point::*Along>
Polygon clip(const Polygon& polygon, double sign, double bound) {
  Polygon kept;
  for (int i = 0; i < polygon.size; ++i) {
    const Point& p = polygon.vertices[i];
    const Point& q = polygon.vertices[i + 1 == polygon.size ? 0 : i + 1];
    const double from = sign * (p.*Across), to = sign * (q.*Across);
    if (from <= bound) kept.add(p);
    if ((from <= bound) != (to <= bound)) {
      Point crossing;
      crossing.*Across = sign * bound;
      crossing.*Along = p.*Along + (q.*Along - p.*Along) * ((bound - from) / (to - from));
      kept.add(crossing);
    }
  }
  return kept;
}

double area(const Polygon& polygon) {
  double twice = 0;
  const Point& o = polygon.vertices[0];
  for (int i = 1; i + 1 < polygon.size; ++i) {
    const Point &p = polygon.vertices[i], &q = polygon.vertices[i + 1];
    twice += (p.x - o.x) * (q.y - o.y) - (q.x - o.x) * (p.y - o.y);
  }
  return twice / 2;
}

// Area [m^2] shared by two footprints, never more than the smaller footprint.
double bev_intersection(const Box& a, const Box& b) {
  if (apart(a, b)) return 0;
  Polygon polygon = footprint_in(a, b);
  polygon = clip<&Point::x, &Point::y>(polygon, 1, b.half_length);
  polygon = clip<&Point::x, &Point::y>(polygon, -1, b.half_length);
  polygon = clip<&Point::y, &Point::x>(polygon, 1, b.half_width);
  polygon = clip<&Point::y, &Point::x>(polygon, -1, b.half_width);
  return std::clamp(area(polygon), 0.0, std::min(a.area(), b.area()));
}

double ratio(double intersection, double a, double b) {
  return intersection > 0 ? intersection / (a + b - intersection) : 0;
}

double bev_iou(const Box& a, const Box& b) { return ratio(bev_intersection(a, b), a.area(), b.area()); }

double iou_3d(const Box& a, const Box& b) {
  const double top = std::min(a.z + a.half_height, b.z + b.half_height);
  const double bottom = std::max(a.z - a.half_height, b.z - b.half_height);
  if (top <= bottom) return 0;
  const double height = std::min({top - bottom, 2 * a.half_height, 2 * b.half_height});
  return ratio(bev_intersection(a, b) * height, a.volume(), b.volume());
}

// (N, M) overlaps of every box of a with every box of b.
template <double (*Overlap)(const Box&, const Box&)>
py::array_t<double> matrix(const Doubles& a, const Doubles& b) {
  py::array_t<double> result({a.shape(0), b.shape(0)});
  double* out = result.mutable_data();
  const std::vector<Box> first = read_boxes(a), second = read_boxes(b);
  py::gil_scoped_release unlocked;
  for (const Box& p : first)
    for (const Box& q : second) *out++ = Overlap(p, q);
  return result;
}

// (N,) overlaps of row i of a with row i of b.
template <double (*Overlap)(const Box&, const Box&)>
py::array_t<double> paired(const Doubles& a, const Doubles& b) {
  py::array_t<double> result(a.shape(0));
  double* out = result.mutable_data();
  const std::vector<Box> first = read_boxes(a), second = read_boxes(b);
  py::gil_scoped_release unlocked;
  for (std::size_t i = 0; i < first.size(); ++i) out[i] = Overlap(first[i], second[i]);
  return result;
}

// Rows kept, in the given order (best first): a box goes when it overlaps a kept one by more than the threshold.
py::array_t<std::int64_t> nms_bev(const Doubles& rows, const Indices& order, double iou_threshold) {
  const std::vector<Box> boxes = read_boxes(rows);
  const std::int64_t* ranked = order.data();
  std::vector<std::int64_t> kept;
  {
    py::gil_scoped_release unlocked;
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      const Box& box = boxes[ranked[i]];
      const bool suppressed = std::any_of(
          kept.begin(), kept.end(), [&](std::int64_t k) { return bev_iou(boxes[k], box) > iou_threshold; });
      if (!suppressed) kept.push_back(ranked[i]);
    }
  }
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(kept.size()), kept.data());
}

// A placed box is x y z, half length, half width, half height, cos yaw, sin yaw: numpy computes the cosines, so that the
// reference gives the same answer for a point on a face.
bool contains(const double* box, double x, double y, double z) {
  if (std::abs(z - box[2]) > box[5]) return false;
  const double dx = x - box[0], dy = y - box[1];
  return std::abs(dx * box[6] + dy * box[7]) <= box[3] && std::abs(dy * box[6] - dx * box[7]) <= box[4];
}

// (N,) index of the first box that contains the point, -1 for none.
template <typename Scalar>
py::array_t<std::int32_t> points_in_boxes(const py::array_t<Scalar, py::array::c_style>& points,
                                          const Doubles& placed) {
  const py::ssize_t count = points.shape(0), columns = points.shape(1), boxes = placed.shape(0);
  py::array_t<std::int32_t> result(count);
  std::int32_t* out = result.mutable_data();
  const Scalar* point = points.data();
  const double* first = placed.data();
  py::gil_scoped_release unlocked;
  for (py::ssize_t i = 0; i < count; ++i, point += columns) {
    out[i] = -1;
    for (py::ssize_t k = 0; k < boxes; ++k)
      if (contains(first + k * kPlacedColumns, point[0], point[1], point[2])) {
        out[i] = static_cast<std::int32_t>(k);
        break;
      }
  }
  return result;
}

// (K,) number of points in each box; a point in two boxes counts for both.
template <typename Scalar>
py::array_t<std::int64_t> points_per_box(const py::array_t<Scalar, py::array::c_style>& points,
                                         const Doubles& placed) {
  const py::ssize_t count = points.shape(0), columns = points.shape(1), boxes = placed.shape(0);
  py::array_t<std::int64_t> result(boxes);
  std::int64_t* out = result.mutable_data();
  const Scalar* first = points.data();
  const double* box = placed.data();
  py::gil_scoped_release unlocked;
  for (py::ssize_t k = 0; k < boxes; ++k, box += kPlacedColumns) {
    out[k] = 0;
    const Scalar* point = first;
    for (py::ssize_t i = 0; i < count; ++i, point += columns) out[k] += contains(box, point[0], point[1], point[2]);
  }
  return result;
}

}  // namespace

PYBIND11_MODULE(_boxes, module) {
  module.doc() = "Rotated-box overlaps, non-maximum suppression and points in boxes.";
  module.def("bev_iou", &matrix<bev_iou>, py::arg("a"), py::arg("b"));
  module.def("iou_3d", &matrix<iou_3d>, py::arg("a"), py::arg("b"));
  module.def("paired_bev_iou", &paired<bev_iou>, py::arg("a"), py::arg("b"));
  module.def("paired_iou_3d", &paired<iou_3d>, py::arg("a"), py::arg("b"));
  module.def("nms_bev", &nms_bev, py::arg("boxes"), py::arg("order"), py::arg("iou_threshold"));
  module.def("points_in_boxes", &points_in_boxes<float>, py::arg("points").noconvert(), py::arg("placed"));
  module.def("points_in_boxes", &points_in_boxes<double>, py::arg("points").noconvert(), py::arg("placed"));
  module.def("points_per_box", &points_per_box<float>, py::arg("points").noconvert(), py::arg("placed"));
  module.def("points_per_box", &points_per_box<double>, py::arg("points").noconvert(), py::arg("placed"));
}
