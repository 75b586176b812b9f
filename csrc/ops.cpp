// The compiled module: every operator's schema and every check of its arguments, once, above the choice of
// device.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include "checks.h"
#include "cpu_capability.h"
#include "spectral/glue.h"
#include "stable.h"

namespace dgdd {
namespace {

using spectral::SpectralParams;
using spectral::Storage;

Storage storage_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return Storage::float64;
    case ScalarType::BFloat16:
      return Storage::bfloat16;
    case ScalarType::Half:
      return Storage::float16;
    default:
      return Storage::float32;
  }
}

void run(const SpectralParams& params, const Device& device) {
  if (params.planes() == 0) return;
  if (device.is_cpu()) return spectral::run_cpu(params);
#if defined(DGDD_WITH_CUDA)
  spectral::run_cuda(params, device);
#else
  throw std::runtime_error(
      "dgdd: this build of dgdd_fast has no CUDA kernels, and the tensors are on a CUDA device. Install it "
      "again where nvcc is "
      "on the PATH, with DGDD_CUDA=ON in the environment");
#endif
}

void check_planes(const Checks& checks, const Tensor& domain_grads, int64_t least_axes, const char* layout) {
  checks.is_floating(domain_grads, "domain_grads");
  const std::string got = text_of_shape(shape(domain_grads));
  checks.require(least_axes == 5 ? domain_grads.dim() == 5 : domain_grads.dim() >= least_axes, "domain_grads",
                 layout, got);
  checks.require(domain_grads.size(0) >= 1, "domain_grads", text(layout, " with at least one domain"), got);
  checks.require(domain_grads.size(-1) >= 1 && domain_grads.size(-2) >= 1, "domain_grads",
                 text(layout, " with H >= 1 and W >= 1"), got);
}

std::tuple<Tensor, Tensor> spectral_consensus(const Tensor& domain_grads, double eps) {
  const Checks checks("spectral_consensus");
  check_planes(checks, domain_grads, 3, "[D, *, H, W]");
  checks.is_finite_and_not_negative(eps, "eps");

  const Tensor gradients = torch::stable::contiguous(domain_grads);
  std::vector<int64_t> sizes = shape(gradients);
  sizes.erase(sizes.begin());
  SpectralParams params{};
  params.domains = gradients.size(0);
  params.samples = 1;
  for (size_t axis = 0; axis + 2 < sizes.size(); ++axis) params.samples *= sizes[axis];
  params.channels = 1;
  params.height = gradients.size(-2);
  params.width = gradients.size(-1);
  params.storage = storage_of(gradients);
  params.domain_grads = gradients.data_ptr();
  params.eps = eps;

  Tensor class_signal = torch::stable::new_empty(gradients, sizes);
  sizes.back() = params.half_width();
  Tensor resultant_length = torch::stable::new_empty(gradients, sizes);
  params.class_signal = class_signal.data_ptr();
  params.resultant_length = resultant_length.data_ptr();
  run(params, gradients.device());
  return {class_signal, resultant_length};
}

void check_domain_index(const Checks& checks, const Tensor& domain_index, int64_t domains) {
  const int64_t* values = domain_index.const_data_ptr<int64_t>();
  for (int64_t sample = 0; sample < domain_index.numel(); ++sample)
    checks.require(values[sample] >= 0 && values[sample] < domains, "domain_index",
                   text("in [0, ", domains, ")"), text(values[sample], " at position ", sample));
}

// The arguments that surgery and its step share, checked and made contiguous. The tensors are kept because
// params points into them.
struct SurgeryInputs {
  Tensor domain_grads;
  std::optional<Tensor> base_grad;
  Tensor domain_index;
  std::optional<Tensor> domain_valid;
  std::vector<int64_t> sizes;  // [N, C, H, W]
  SpectralParams params{};

  SurgeryInputs(const Checks& checks, const Tensor& domain_grads_, const std::optional<Tensor>& base_grad_,
                const Tensor& domain_index_, double alpha, double beta, double eps, bool weighted_deviation,
                const std::optional<Tensor>& domain_valid_)
      : domain_grads(domain_grads_), domain_index(domain_index_) {
    check_planes(checks, domain_grads_, 5, "[D, N, C, H, W]");
    const Device device = domain_grads_.device();
    const int64_t domains = domain_grads_.size(0);
    const int64_t samples = domain_grads_.size(1);
    sizes = shape(domain_grads_);
    sizes.erase(sizes.begin());
    if (base_grad_.has_value()) {
      checks.has_dtype(*base_grad_, "base_grad", domain_grads_.scalar_type(), " like domain_grads");
      checks.has_shape(*base_grad_, "base_grad", sizes, "[N, C, H, W]");
      checks.is_on(*base_grad_, "base_grad", device);
      base_grad = torch::stable::contiguous(*base_grad_);
    }
    checks.has_dtype(domain_index_, "domain_index", ScalarType::Long, "");
    checks.has_shape(domain_index_, "domain_index", {samples}, "[N]");
    checks.is_on(domain_index_, "domain_index", device);
    if (domain_valid_.has_value()) {
      checks.has_dtype(*domain_valid_, "domain_valid", ScalarType::Bool, "");
      checks.has_shape(*domain_valid_, "domain_valid", {domains, samples}, "[D, N]");
      checks.is_on(*domain_valid_, "domain_valid", device);
      domain_valid = torch::stable::contiguous(*domain_valid_);
    }
    checks.is_finite(alpha, "alpha");
    checks.is_finite(beta, "beta");
    checks.is_finite_and_not_negative(eps, "eps");

    domain_grads = torch::stable::contiguous(domain_grads_);
    domain_index = torch::stable::contiguous(domain_index_);
    if (device.is_cpu()) check_domain_index(checks, domain_index, domains);

    params.domains = domains;
    params.samples = samples;
    params.channels = sizes[1];
    params.height = sizes[2];
    params.width = sizes[3];
    params.storage = storage_of(domain_grads);
    params.domain_grads = domain_grads.data_ptr();
    params.base_grad = base_grad.has_value() ? base_grad->data_ptr() : nullptr;
    params.domain_index = domain_index.const_data_ptr<int64_t>();
    params.domain_valid = domain_valid.has_value() ? domain_valid->const_data_ptr<bool>() : nullptr;
    params.alpha = alpha;
    params.beta = beta;
    params.eps = eps;
    params.weighted_deviation = weighted_deviation;
  }
};

Tensor spectral_surgery(const Tensor& domain_grads, const std::optional<Tensor>& base_grad,
                        const Tensor& domain_index, double alpha, double beta, double eps,
                        bool weighted_deviation, const std::optional<Tensor>& domain_valid) {
  SurgeryInputs inputs(Checks("spectral_surgery"), domain_grads, base_grad, domain_index, alpha, beta, eps,
                       weighted_deviation, domain_valid);
  Tensor update = torch::stable::new_empty(inputs.domain_grads, inputs.sizes);
  inputs.params.update = update.data_ptr();
  run(inputs.params, domain_grads.device());
  return update;
}

void spectral_surgery_step_(Tensor images, Tensor momentum_buffer, const Tensor& domain_grads,
                            const std::optional<Tensor>& base_grad, const Tensor& domain_index, double alpha,
                            double beta, double lr, double momentum, double eps, bool weighted_deviation,
                            const std::optional<Tensor>& domain_valid) {
  const Checks checks("spectral_surgery_step_");
  SurgeryInputs inputs(checks, domain_grads, base_grad, domain_index, alpha, beta, eps, weighted_deviation,
                       domain_valid);
  const auto check_written = [&](const Tensor& tensor, const char* argument) {
    checks.has_dtype(tensor, argument, domain_grads.scalar_type(), " like domain_grads");
    checks.has_shape(tensor, argument, inputs.sizes, "[N, C, H, W]");
    checks.is_on(tensor, argument, domain_grads.device());
    checks.does_not_repeat_memory(tensor, argument);
  };
  check_written(images, "images");
  check_written(momentum_buffer, "momentum_buffer");
  checks.require(images.numel() == 0 || images.data_ptr() != momentum_buffer.data_ptr(), "momentum_buffer",
                 "a tensor of its own", "the memory of images");
  checks.is_finite(lr, "lr");
  checks.is_finite(momentum, "momentum");

  Tensor images_in_order = torch::stable::contiguous(images);
  Tensor buffer_in_order = torch::stable::contiguous(momentum_buffer);
  inputs.params.learning_rate = lr;
  inputs.params.momentum = momentum;
  inputs.params.images = images_in_order.data_ptr();
  inputs.params.momentum_buffer = buffer_in_order.data_ptr();
  run(inputs.params, domain_grads.device());
  if (!images.is_contiguous()) torch::stable::copy_(images, images_in_order);
  if (!momentum_buffer.is_contiguous()) torch::stable::copy_(momentum_buffer, buffer_in_order);
}

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = DGDD_VERSION;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = DGDD_COMPILER;
  info["cuda_compiler"] = DGDD_CUDA_COMPILER;
  info["cuda_architectures"] = DGDD_CUDA_ARCHITECTURES;
  info["cpu_capability"] = name(cpu_capability());
  return info;
}

}  // namespace
}  // namespace dgdd

STABLE_TORCH_LIBRARY(dgdd, m) {
  m.def(
      "spectral_consensus(Tensor domain_grads, float eps=1e-12) -> (Tensor class_signal, Tensor "
      "resultant_length)");
  m.def(
      "spectral_surgery(Tensor domain_grads, Tensor? base_grad, Tensor domain_index, float alpha, float "
      "beta, "
      "float eps=1e-12, bool weighted_deviation=True, Tensor? domain_valid=None) -> Tensor");
  m.def(
      "spectral_surgery_step_(Tensor(a!) images, Tensor(b!) momentum_buffer, Tensor domain_grads, Tensor? "
      "base_grad, "
      "Tensor domain_index, float alpha, float beta, float lr, float momentum, float eps=1e-12, "
      "bool weighted_deviation=True, Tensor? domain_valid=None) -> ()");
}

// The same function for each device: it checks, then branches. A build without CUDA says so instead of "no
// such kernel".
STABLE_TORCH_LIBRARY_IMPL(dgdd, CPU, m) {
  m.impl("spectral_consensus", TORCH_BOX(&dgdd::spectral_consensus));
  m.impl("spectral_surgery", TORCH_BOX(&dgdd::spectral_surgery));
  m.impl("spectral_surgery_step_", TORCH_BOX(&dgdd::spectral_surgery_step_));
}

STABLE_TORCH_LIBRARY_IMPL(dgdd, CUDA, m) {
  m.impl("spectral_consensus", TORCH_BOX(&dgdd::spectral_consensus));
  m.impl("spectral_surgery", TORCH_BOX(&dgdd::spectral_surgery));
  m.impl("spectral_surgery_step_", TORCH_BOX(&dgdd::spectral_surgery_step_));
}

PYBIND11_MODULE(_C, m) { m.def("build_info", &dgdd::build_info); }
