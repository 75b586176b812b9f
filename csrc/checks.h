// Input checks with one form of message: "dgdd::<op>: <argument> must be <expected>, got <what came>".
#pragma once

#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>

#include "stable.h"

namespace dgdd {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

inline std::string text_of_shape(Sizes sizes) {
  std::ostringstream stream;
  stream << '[';
  for (size_t axis = 0; axis < sizes.size(); ++axis) stream << (axis == 0 ? "" : ", ") << sizes[axis];
  stream << ']';
  return stream.str();
}

// As torch names them in Python.
inline std::string text_of_dtype(ScalarType type) {
  switch (type) {
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::BFloat16:
      return "bfloat16";
    default:
      return torch::headeronly::toString(type);
  }
}

inline std::string text_of_device(const Device& device) {
  if (device.is_cpu()) return "cpu";
  if (device.is_cuda()) return text("cuda:", device.index());
  return text("a device of type ", static_cast<int>(device.type()));
}

// The checks of one operator's arguments. A check that succeeds builds no text: small calls would spend most
// of their time on it.
class Checks {
 public:
  explicit Checks(const char* op) : op_(op) {}

  // Throws std::runtime_error, which Python sees as RuntimeError.
  [[noreturn]] void refuse(const char* argument, const std::string& expected, const std::string& got) const {
    throw std::runtime_error(text("dgdd::", op_, ": ", argument, " must be ", expected, ", got ", got));
  }

  // `also` names what else it could have been, as a list that goes on.
  void is_floating(const Tensor& tensor, const char* argument, const char* also = "") const {
    const ScalarType type = tensor.scalar_type();
    if (type != ScalarType::Float && type != ScalarType::Double && type != ScalarType::BFloat16 &&
        type != ScalarType::Half)
      refuse(argument, text(also, "float32, float64, bfloat16 or float16"), text_of_dtype(type));
  }

  void has_dtype(const Tensor& tensor, const char* argument, ScalarType expected, const char* why) const {
    const ScalarType type = tensor.scalar_type();
    if (type != expected) refuse(argument, text_of_dtype(expected) + why, text_of_dtype(type));
  }

  // The dtype of the argument that `like` names, or float32 beside half formats.
  void has_dtype_or_float32(const Tensor& tensor, const char* argument, ScalarType expected,
                            const char* like) const {
    const ScalarType type = tensor.scalar_type();
    const bool half = expected == ScalarType::BFloat16 || expected == ScalarType::Half;
    if (type != expected && !(half && type == ScalarType::Float))
      refuse(argument, text(text_of_dtype(expected), " like ", like, half ? ", or float32" : ""),
             text_of_dtype(type));
  }

  void has_shape(const Tensor& tensor, const char* argument, Sizes expected, const char* names) const {
    if (!tensor.sizes().equals(expected))  // torch 2.11 has no operator for it
      refuse(argument, text(names, " = ", text_of_shape(expected)), text_of_shape(tensor.sizes()));
  }

  // `like` names the argument whose device it is.
  void is_on(const Tensor& tensor, const char* argument, const Device& expected, const char* like) const {
    const Device device = tensor.device();
    if (device != expected)
      refuse(argument, text("on ", text_of_device(expected), " like ", like), text_of_device(device));
  }

  void is_finite(double value, const char* argument) const {
    if (!std::isfinite(value)) refuse(argument, "finite", text(value));
  }

  void is_finite_and_not_negative(double value, const char* argument) const {
    if (!std::isfinite(value) || value < 0) refuse(argument, "finite and at least 0", text(value));
  }

  // An in-place result needs one memory cell for each element.
  void does_not_repeat_memory(const Tensor& tensor, const char* argument) const {
    for (int64_t axis = 0; axis < tensor.dim(); ++axis)
      if (tensor.size(axis) > 1 && tensor.stride(axis) == 0)
        refuse(argument, "written in place, so each element needs its own memory",
               text("an expanded axis ", axis));
  }

 private:
  const char* op_;
};

}  // namespace dgdd
