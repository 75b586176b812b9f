// Every operator's schema and every check of its arguments, once, above the choice of device.
#include <algorithm>

#include "augmentation/glue.h"
#include "augmentation/step.h"
#include "checks.h"
#include "convolution/glue.h"
#include "masking/glue.h"
#include "normalization/glue.h"
#include "spectral/glue.h"
#include "stable.h"

namespace dgdd {
namespace {

using augmentation::AugmentationParams;
using convolution::ConvolutionParams;
using convolution::WeightGradParams;
using masking::MaskingParams;
using normalization::NormPoolParams;
using spectral::SpectralParams;

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

#if !defined(DGDD_WITH_CUDA)
[[noreturn]] void refuse_cuda() {
  throw std::runtime_error(
      "dgdd: this build of dgdd_fast has no CUDA kernels, and the tensors are on a CUDA device. Install it "
      "again where nvcc is "
      "on the PATH, with DGDD_CUDA=ON in the environment");
}
#endif

void run(const SpectralParams& params, const Device& device) {
  if (params.planes() == 0) return;
  if constexpr (kHostIsCpu)
    if (device.is_cpu()) return spectral::run_cpu(params);
#if defined(DGDD_WITH_CUDA)
  spectral::run_cuda(params, device);
#else
  refuse_cuda();
#endif
}

void run(const MaskingParams& params, const Device& device) {
  if (params.samples == 0 || params.channels == 0) return;
  if constexpr (kHostIsCpu)
    if (device.is_cpu()) return masking::run_cpu(params);
#if defined(DGDD_WITH_CUDA)
  masking::run_cuda(params, device);
#else
  refuse_cuda();
#endif
}

void run(const AugmentationParams& params, const Device& device) {
  if (params.results() == 0) return;
  if constexpr (kHostIsCpu)
    if (device.is_cpu()) return augmentation::run_cpu(params);
#if defined(DGDD_WITH_CUDA)
  augmentation::run_cuda(params, device);
#else
  refuse_cuda();
#endif
}

void run(const NormPoolParams& params, const Device& device) {
  if (params.channels == 0) return;
  if constexpr (kHostIsCpu)
    if (device.is_cpu()) return normalization::run_cpu(params);
#if defined(DGDD_WITH_CUDA)
  normalization::run_cuda(params, device);
#else
  refuse_cuda();
#endif
}

void check_planes(const Checks& checks, const Tensor& domain_grads, int64_t least_axes, const char* layout) {
  checks.is_floating(domain_grads, "domain_grads");
  const auto refuse = [&](const char* expected) {
    checks.refuse("domain_grads", text(layout, expected), text_of_shape(domain_grads.sizes()));
  };
  if (least_axes == 5 ? domain_grads.dim() != 5 : domain_grads.dim() < least_axes) refuse("");
  if (domain_grads.size(0) < 1) refuse(" with at least one domain");
  if (domain_grads.size(-1) < 1 || domain_grads.size(-2) < 1) refuse(" with H >= 1 and W >= 1");
}

std::tuple<Tensor, Tensor> spectral_consensus(const Tensor& domain_grads, double eps) {
  const Checks checks("spectral_consensus");
  check_planes(checks, domain_grads, 3, "[D, *, H, W]");
  checks.is_finite_and_not_negative(eps, "eps");

  const Tensor gradients = made_contiguous(domain_grads);
  std::vector<int64_t> sizes = gradients.sizes().slice(1).vec();
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
    if (values[sample] < 0 || values[sample] >= domains)
      checks.refuse("domain_index", text("in [0, ", domains, ")"),
                    text(values[sample], " at position ", sample));
}

// The arguments that surgery and its step share, checked and made contiguous. The tensors are kept because
// params points into them.
struct SurgeryInputs {
  Tensor domain_grads;
  std::optional<Tensor> base_grad;
  Tensor domain_index;
  std::optional<Tensor> domain_valid;
  Sizes sizes;  // [N, C, H, W]
  SpectralParams params{};

  SurgeryInputs(const Checks& checks, const Tensor& domain_grads_, const std::optional<Tensor>& base_grad_,
                const Tensor& domain_index_, double alpha, double beta, double eps, bool weighted_deviation,
                const std::optional<Tensor>& domain_valid_)
      : domain_grads(domain_grads_), domain_index(domain_index_) {
    check_planes(checks, domain_grads_, 5, "[D, N, C, H, W]");
    const Device device = domain_grads_.device();
    const int64_t domains = domain_grads_.size(0);
    const int64_t samples = domain_grads_.size(1);
    sizes = domain_grads_.sizes().slice(1);
    if (base_grad_.has_value()) {
      checks.has_dtype(*base_grad_, "base_grad", domain_grads_.scalar_type(), " like domain_grads");
      checks.has_shape(*base_grad_, "base_grad", sizes, "[N, C, H, W]");
      checks.is_on(*base_grad_, "base_grad", device, "domain_grads");
      base_grad = made_contiguous(*base_grad_);
    }
    checks.has_dtype(domain_index_, "domain_index", ScalarType::Long, "");
    checks.has_shape(domain_index_, "domain_index", {samples}, "[N]");
    checks.is_on(domain_index_, "domain_index", device, "domain_grads");
    if (domain_valid_.has_value()) {
      checks.has_dtype(*domain_valid_, "domain_valid", ScalarType::Bool, "");
      checks.has_shape(*domain_valid_, "domain_valid", {domains, samples}, "[D, N]");
      checks.is_on(*domain_valid_, "domain_valid", device, "domain_grads");
      domain_valid = made_contiguous(*domain_valid_);
    }
    checks.is_finite(alpha, "alpha");
    checks.is_finite(beta, "beta");
    checks.is_finite_and_not_negative(eps, "eps");

    domain_grads = made_contiguous(domain_grads_);
    domain_index = made_contiguous(domain_index_);
    if (kHostIsCpu && device.is_cpu()) check_domain_index(checks, domain_index, domains);

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
    checks.is_on(tensor, argument, domain_grads.device(), "domain_grads");
    checks.does_not_repeat_memory(tensor, argument);
  };
  check_written(images, "images");
  check_written(momentum_buffer, "momentum_buffer");
  if (images.numel() != 0 && images.data_ptr() == momentum_buffer.data_ptr())
    checks.refuse("momentum_buffer", "a tensor of its own", "the memory of images");
  checks.is_finite(lr, "lr");
  checks.is_finite(momentum, "momentum");

  Tensor images_in_order = made_contiguous(images);
  Tensor buffer_in_order = made_contiguous(momentum_buffer);
  inputs.params.learning_rate = lr;
  inputs.params.momentum = momentum;
  inputs.params.images = images_in_order.data_ptr();
  inputs.params.momentum_buffer = buffer_in_order.data_ptr();
  run(inputs.params, domain_grads.device());
  if (!images.is_contiguous()) torch::stable::copy_(images, images_in_order);
  if (!momentum_buffer.is_contiguous()) torch::stable::copy_(momentum_buffer, buffer_in_order);
}

// Features as a masking or normalisation kernel takes them, and memory for results, which lie as the features
// do: channels last where the features' are, else contiguous. Features that are neither are copied.
struct Features {
  Tensor tensor;
  bool channels_last;

  Features(const Checks& checks, const Tensor& features) : tensor(features) {
    checks.is_floating(features, "features");
    if (features.dim() < 2) checks.refuse("features", "[N, C, *]", text_of_shape(features.sizes()));
    lay_out();
  }

  explicit Features(const Tensor& checked) : tensor(checked) { lay_out(); }

  int64_t samples() const { return tensor.size(0); }
  int64_t channels() const { return tensor.size(1); }

  void describe(MaskingParams& params) const {
    params.samples = samples();
    params.channels = channels();
    params.positions = 1;
    for (int64_t axis = 2; axis < tensor.dim(); ++axis) params.positions *= tensor.size(axis);
    params.storage = storage_of(tensor);
    params.features = tensor.const_data_ptr();
    params.sample_stride = tensor.stride(0);
    params.channel_stride = tensor.stride(1);
    params.position_stride = position_stride();
    params.channels_last = channels_last;
  }

  void describe(NormPoolParams& params) const {
    params.samples = samples();
    params.channels = channels();
    params.height = tensor.size(2);
    params.width = tensor.size(3);
    params.storage = storage_of(tensor);
    params.x = tensor.const_data_ptr();
    params.sample_stride = tensor.stride(0);
    params.channel_stride = tensor.stride(1);
    params.position_stride = position_stride();
    params.channels_last = channels_last;
  }

  // Of the same layout, without gaps; `sizes` differ in the trailing axes at most.
  Tensor empty(std::vector<int64_t> sizes) const {
    if (!channels_last) return torch::stable::new_empty(tensor, sizes);
    std::rotate(sizes.begin() + 1, sizes.begin() + 2, sizes.end());
    return moved(torch::stable::new_empty(tensor, sizes), -1, 1);
  }
  Tensor empty_like() const { return empty(tensor.sizes().vec()); }

  // `other`, of such sizes, in memory like that.
  Tensor laid_out_alike(const Tensor& other) const {
    return channels_last ? moved(made_contiguous(moved(other, 1, -1)), -1, 1) : made_contiguous(other);
  }

 private:
  void lay_out() {
    channels_last = !tensor.is_contiguous() && tensor.stride(1) == 1;
    const int64_t stride = position_stride();
    if (channels_last ? stride < 0 : stride != 1) tensor = laid_out_alike(tensor);
  }

  static Tensor moved(const Tensor& tensor, int64_t from, int64_t to) {
    return call_aten("aten::movedim", "int", tensor, from, to);
  }

  // Of the trailing axes as one, or -1 where they are none.
  int64_t position_stride() const {
    int64_t stride = 1;
    int64_t positions = 1;
    for (int64_t axis = tensor.dim() - 1; axis >= 2; --axis) {
      if (tensor.size(axis) == 1) continue;
      if (positions == 1) stride = tensor.stride(axis);
      if (tensor.stride(axis) != stride * positions) return -1;
      positions *= tensor.size(axis);
    }
    return stride;
  }
};

// The arguments of scoring, checked and made contiguous. The tensors are kept because params points into
// them.
struct ScoreInputs {
  Features features;
  Tensor weight;
  Tensor domain_index;

  ScoreInputs(const Checks& checks, const Tensor& features_, const Tensor& weight_,
              const Tensor& domain_index_)
      : features(checks, features_), weight(weight_), domain_index(domain_index_) {
    const Device device = features_.device();
    checks.has_dtype_or_float32(weight_, "weight", features_.scalar_type(), "features");
    if (weight_.dim() != 2) checks.refuse("weight", "[D, C]", text_of_shape(weight_.sizes()));
    checks.has_shape(weight_, "weight", {weight_.size(0), features.channels()}, "[D, C]");
    checks.is_on(weight_, "weight", device, "features");
    checks.has_dtype(domain_index_, "domain_index", ScalarType::Long, "");
    checks.has_shape(domain_index_, "domain_index", {features.samples()}, "[N]");
    checks.is_on(domain_index_, "domain_index", device, "features");
    weight = made_contiguous(weight_);
    domain_index = made_contiguous(domain_index_);
    if (kHostIsCpu && device.is_cpu()) check_domain_index(checks, domain_index, weight.size(0));
  }

  MaskingParams params(bool per_pixel) const {
    MaskingParams params{};
    features.describe(params);
    params.domains = weight.size(0);
    params.weight = weight.const_data_ptr();
    params.weight_storage = storage_of(weight);
    params.domain_index = domain_index.const_data_ptr<int64_t>();
    params.per_pixel = per_pixel;
    return params;
  }
};

// The arguments of selection, likewise; `like` names the argument that has the shape [N, C, ..] and the dtype
// of `rows`.
struct SelectInputs {
  Tensor uniforms;
  int64_t num_masked;
  bool normalize;

  SelectInputs(const Checks& checks, const Tensor& rows, const char* like, const Tensor& uniforms_,
               int64_t num_masked_, bool normalize_)
      : uniforms(uniforms_), num_masked(num_masked_), normalize(normalize_) {
    checks.has_dtype_or_float32(uniforms_, "uniforms", rows.scalar_type(), like);
    checks.has_shape(uniforms_, "uniforms", {rows.size(0), rows.size(1)}, "[N, C]");
    checks.is_on(uniforms_, "uniforms", rows.device(), like);
    if (num_masked_ < 0 || num_masked_ > rows.size(1))
      checks.refuse("num_masked", text("in [0, C] = [0, ", rows.size(1), "]"), text(num_masked_));
    uniforms = made_contiguous(uniforms_);
  }

  void describe(MaskingParams& params) const {
    params.uniforms = uniforms.const_data_ptr();
    params.uniforms_storage = storage_of(uniforms);
    params.num_masked = num_masked;
    params.normalize = normalize;
  }
};

Tensor channel_scores(const Tensor& features, const Tensor& weight, const Tensor& domain_index,
                      bool per_pixel) {
  const ScoreInputs inputs(Checks("channel_scores"), features, weight, domain_index);
  MaskingParams params = inputs.params(per_pixel);
  Tensor scores = torch::stable::new_empty(features, {params.samples, params.channels});
  params.scores = scores.data_ptr();
  run(params, features.device());
  return scores;
}

Tensor weighted_channel_mask(const Tensor& scores, const Tensor& uniforms, int64_t num_masked,
                             bool normalize) {
  const Checks checks("weighted_channel_mask");
  checks.is_floating(scores, "scores");
  if (scores.dim() != 2) checks.refuse("scores", "[N, C]", text_of_shape(scores.sizes()));
  const SelectInputs inputs(checks, scores, "scores", uniforms, num_masked, normalize);
  const Tensor rows = made_contiguous(scores);
  MaskingParams params{};
  params.samples = rows.size(0);
  params.channels = rows.size(1);
  params.storage = storage_of(rows);
  params.given_scores = rows.const_data_ptr();
  inputs.describe(params);
  Tensor mask = torch::stable::new_empty(rows, rows.sizes());
  params.mask = mask.data_ptr();
  run(params, rows.device());
  return mask;
}

std::tuple<Tensor, Tensor> mask_channels(const Tensor& features, const Tensor& weight,
                                         const Tensor& domain_index, const Tensor& uniforms,
                                         int64_t num_masked, bool rescale, bool normalize, bool per_pixel) {
  const Checks checks("mask_channels");
  const ScoreInputs score_inputs(checks, features, weight, domain_index);
  const SelectInputs select_inputs(checks, features, "features", uniforms, num_masked, normalize);
  MaskingParams params = score_inputs.params(per_pixel);
  select_inputs.describe(params);
  if (rescale && num_masked == params.channels && params.channels != 0)
    checks.refuse(
        "num_masked",
        text("less than C = ", params.channels, " with rescale=True, which divides by what is left"),
        text(num_masked));
  params.scale = rescale ? static_cast<double>(params.channels) / (params.channels - num_masked) : 1;
  Tensor mask = torch::stable::new_empty(features, {params.samples, params.channels});
  Tensor masked = score_inputs.features.empty_like();
  params.mask = mask.data_ptr();
  params.masked = masked.data_ptr();
  run(params, features.device());
  return {masked, mask};
}

Tensor apply_channel_mask(const Tensor& features, const Tensor& mask, double scale) {
  const Checks checks("apply_channel_mask");
  const Features inputs(checks, features);
  checks.has_dtype(mask, "mask", features.scalar_type(), " like features");
  checks.has_shape(mask, "mask", {inputs.samples(), inputs.channels()}, "[N, C]");
  checks.is_on(mask, "mask", features.device(), "features");
  checks.is_finite(scale, "scale");
  const Tensor rows = made_contiguous(mask);
  MaskingParams params{};
  inputs.describe(params);
  params.given_mask = rows.const_data_ptr();
  params.scale = scale;
  Tensor masked = inputs.empty_like();
  params.masked = masked.data_ptr();
  run(params, features.device());
  return masked;
}

// The arguments that say what happens to each row of the batch, checked and made contiguous. The tensors are
// kept because params points into them.
struct AugmentationInputs {
  std::optional<Tensor> rows;
  Tensor operation;
  Tensor parameters;
  AugmentationParams params{};

  // `like` names the tensor [*, C, H, W] that comes in.
  AugmentationInputs(const Checks& checks, const Tensor& source, const char* like, int64_t images,
                     const std::optional<Tensor>& rows_, const Tensor& operation_, const Tensor& parameters_,
                     const std::vector<int64_t>& crop, const std::vector<int64_t>& cutout)
      : rows(rows_), operation(operation_), parameters(parameters_) {
    check_images(checks, source, like);
    const Device device = source.device();
    if (images < 0) checks.refuse("images", "at least 0", text(images));
    params.images = images;
    params.batch = images;
    if (rows_.has_value()) {
      checks.has_dtype(*rows_, "rows", ScalarType::Long, "");
      if (rows_->dim() != 1) checks.refuse("rows", "[B]", text_of_shape(rows_->sizes()));
      checks.is_on(*rows_, "rows", device, like);
      rows = made_contiguous(*rows_);
      params.batch = rows->size(0);
      params.has_rows = true;
      params.rows = rows->const_data_ptr<int64_t>();
    }
    checks.has_dtype(operation_, "operation", ScalarType::Long, "");
    checks.has_shape(operation_, "operation", {params.batch}, "[B]");
    checks.is_on(operation_, "operation", device, like);
    const ScalarType type = parameters_.scalar_type();
    if (type != ScalarType::Float && type != ScalarType::Double)
      checks.refuse("parameters", "float32 or float64", text_of_dtype(type));
    checks.has_shape(parameters_, "parameters", {params.batch, 3}, "[B, 3]");
    checks.is_on(parameters_, "parameters", device, like);
    const auto check_pair = [&](const std::vector<int64_t>& pair, const char* argument, int64_t* to) {
      if (pair.size() != 2 || pair[0] < 0 || pair[1] < 0)
        checks.refuse(argument, "a number of rows and one of columns, at least 0", text_of_shape(pair));
      std::copy(pair.begin(), pair.end(), to);
    };
    check_pair(crop, "crop", params.crop);
    check_pair(cutout, "cutout", params.cutout);

    operation = made_contiguous(operation_);
    parameters = made_contiguous(parameters_);
    params.channels = source.size(1);
    params.height = source.size(2);
    params.width = source.size(3);
    params.operation = operation.const_data_ptr<int64_t>();
    params.parameters = parameters.const_data_ptr();
    params.parameters_storage = storage_of(parameters);
  }

  // On the CPU, where values can be looked at. After `storage` is filled in: a parameter has to be finite in
  // the arithmetic of the images.
  void check_values(const Checks& checks) const {
    for (int64_t item = 0; item < params.batch; ++item) {
      const auto refuse = [&](const char* argument, const std::string& expected, auto got) {
        checks.refuse(argument, expected, text(got, " at position ", item));
      };
      if (params.has_rows && (params.rows[item] < 0 || params.rows[item] >= params.images))
        refuse("rows", text("in [0, ", params.images, ")"), params.rows[item]);
      const int64_t number = params.operation[item];
      if (number < 0 || number >= augmentation::kOperations)
        refuse("operation", text("in [0, ", augmentation::kOperations, ")"), number);
      const bool valid = params.storage == Storage::float64 ? augmentation::Step<double>(params, item).valid
                                                            : augmentation::Step<float>(params, item).valid;
      if (valid) continue;
      const std::string got = text(parameter(item, 0), ", ", parameter(item, 1), ", ", parameter(item, 2));
      if (static_cast<augmentation::Operation>(number) == augmentation::Operation::crop)
        refuse("parameters",
               text("finite, and for a crop at most crop = ", text_of_shape(Sizes(params.crop, 2))), got);
      refuse("parameters", "finite", got);
    }
  }

 private:
  static void check_images(const Checks& checks, const Tensor& source, const char* argument) {
    const auto refuse = [&](const char* expected) {
      checks.refuse(argument, expected, text_of_shape(source.sizes()));
    };
    if (source.dim() != 4) refuse("[M, C, H, W]");
    if (source.size(1) < 1 || source.size(2) < 1 || source.size(3) < 1)
      refuse("[M, C, H, W] with C, H and W at least 1");
    if (source.size(2) > augmentation::kLongestSide || source.size(3) > augmentation::kLongestSide)
      checks.refuse(argument, text("images of sides up to ", augmentation::kLongestSide),
                    text_of_shape(source.sizes()));
  }

  double parameter(int64_t item, int64_t number) const {
    const int64_t at = 3 * item + number;
    return params.parameters_storage == Storage::float64 ? static_cast<const double*>(params.parameters)[at]
                                                         : static_cast<const float*>(params.parameters)[at];
  }
};

Tensor sample_augment(const Tensor& images, const std::optional<Tensor>& rows, const Tensor& operation,
                      const Tensor& parameters, const std::optional<Tensor>& mean,
                      const std::optional<Tensor>& std, std::vector<int64_t> crop,
                      std::vector<int64_t> cutout) {
  const Checks checks("sample_augment");
  const bool bytes = images.scalar_type() == ScalarType::Byte;
  if (!bytes) checks.is_floating(images, "images", "uint8, ");
  AugmentationInputs inputs(checks, images, "images", images.dim() == 0 ? 0 : images.size(0), rows, operation,
                            parameters, crop, cutout);
  AugmentationParams& params = inputs.params;
  const Tensor pixels = made_contiguous(images);
  std::optional<Tensor> own_mean, own_std;
  if (bytes) {
    if (!mean.has_value() || !std.has_value())
      checks.refuse("mean and std", "tensors for uint8 images, which are normalised with them", "None");
    checks.is_floating(*mean, "mean");
    checks.has_dtype(*std, "std", mean->scalar_type(), " like mean");
    checks.has_shape(*mean, "mean", {params.channels}, "[C]");
    checks.has_shape(*std, "std", {params.channels}, "[C]");
    checks.is_on(*mean, "mean", images.device(), "images");
    checks.is_on(*std, "std", images.device(), "images");
    own_mean = made_contiguous(*mean);
    own_std = made_contiguous(*std);
    params.mean = own_mean->const_data_ptr();
    params.std = own_std->const_data_ptr();
  }
  const Tensor& like = bytes ? *own_mean : pixels;
  params.bytes = bytes;
  params.storage = storage_of(like);
  params.source = pixels.const_data_ptr();
  if (kHostIsCpu && images.device().is_cpu()) inputs.check_values(checks);
  Tensor result =
      torch::stable::new_empty(like, {params.batch, params.channels, params.height, params.width});
  params.result = result.data_ptr();
  run(params, images.device());
  return result;
}

Tensor sample_augment_backward(const Tensor& gradient, const std::optional<Tensor>& rows,
                               const Tensor& operation, const Tensor& parameters, int64_t images,
                               std::vector<int64_t> crop, std::vector<int64_t> cutout) {
  const Checks checks("sample_augment_backward");
  checks.is_floating(gradient, "gradient");
  AugmentationInputs inputs(checks, gradient, "gradient", images, rows, operation, parameters, crop, cutout);
  AugmentationParams& params = inputs.params;
  checks.has_shape(gradient, "gradient", {params.batch, params.channels, params.height, params.width},
                   "[B, C, H, W]");
  const Tensor upstream = made_contiguous(gradient);
  params.backward = true;
  params.storage = storage_of(upstream);
  params.source = upstream.const_data_ptr();
  if (kHostIsCpu && gradient.device().is_cpu()) inputs.check_values(checks);
  Tensor result =
      torch::stable::new_empty(upstream, {params.images, params.channels, params.height, params.width});
  params.result = result.data_ptr();
  run(params, gradient.device());
  return result;
}

Tensor with_dtype(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

void check_pool(const Checks& checks, const Tensor& x, int64_t pool) {
  if (pool < 1) checks.refuse("pool", "at least 1", text(pool));
  if (x.size(2) < pool || x.size(3) < pool)
    checks.refuse("x", text("[N, C, H, W] with H and W at least pool = ", pool), text_of_shape(x.sizes()));
}

// The arguments of norm_relu_pool and its backward, checked and in order. The tensors are kept because params
// points into them.
struct NormPoolInputs {
  Features features;
  Tensor weight;
  Tensor bias;
  std::vector<int64_t> pooled_sizes;
  NormPoolParams params{};

  NormPoolInputs(const Checks& checks, const Tensor& x, const Tensor& weight_, const Tensor& bias_,
                 double eps, int64_t pool)
      : features(checked(checks, x, pool)) {
    checks.is_finite_and_not_negative(eps, "eps");
    const auto in_order = [&](const Tensor& row, const char* argument) {
      checks.has_dtype_or_float32(row, argument, x.scalar_type(), "x");
      checks.has_shape(row, argument, {x.size(1)}, "[C]");
      checks.is_on(row, argument, x.device(), "x");
      const ScalarType real = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
      return made_contiguous(with_dtype(row, real));
    };
    weight = in_order(weight_, "weight");
    bias = in_order(bias_, "bias");
    pooled_sizes = {x.size(0), x.size(1), x.size(2) / pool, x.size(3) / pool};
    features.describe(params);
    params.pool = pool;
    params.eps = eps;
    params.weight = weight.const_data_ptr();
    params.bias = bias.const_data_ptr();
  }

 private:
  static Features checked(const Checks& checks, const Tensor& x, int64_t pool) {
    checks.is_floating(x, "x");
    if (x.dim() != 4) checks.refuse("x", "[N, C, H, W]", text_of_shape(x.sizes()));
    check_pool(checks, x, pool);
    return Features(x);
  }
};

Tensor norm_relu_pool(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, int64_t pool) {
  NormPoolInputs inputs(Checks("norm_relu_pool"), x, weight, bias, eps, pool);
  Tensor pooled = inputs.features.empty(inputs.pooled_sizes);
  inputs.params.pooled = pooled.data_ptr();
  run(inputs.params, x.device());
  return pooled;
}

std::tuple<Tensor, Tensor, Tensor> norm_relu_pool_backward(const Tensor& pooled_grad, const Tensor& x,
                                                           const Tensor& weight, const Tensor& bias,
                                                           double eps, int64_t pool) {
  const Checks checks("norm_relu_pool_backward");
  NormPoolInputs inputs(checks, x, weight, bias, eps, pool);
  NormPoolParams& params = inputs.params;
  checks.has_dtype(pooled_grad, "pooled_grad", x.scalar_type(), " like x");
  checks.has_shape(pooled_grad, "pooled_grad", inputs.pooled_sizes, "[N, C, H / pool, W / pool]");
  checks.is_on(pooled_grad, "pooled_grad", x.device(), "x");
  const Tensor grad = inputs.features.laid_out_alike(pooled_grad);
  Tensor x_grad = inputs.features.empty_like();
  Tensor weight_grad = torch::stable::new_empty(inputs.weight, {params.channels});
  Tensor bias_grad = torch::stable::new_empty(inputs.bias, {params.channels});
  Tensor planes = torch::stable::new_empty(inputs.weight, {2, params.samples, params.channels});
  params.backward = true;
  params.pooled_grad = grad.const_data_ptr();
  params.x_grad = x_grad.data_ptr();
  params.weight_grad = weight_grad.data_ptr();
  params.bias_grad = bias_grad.data_ptr();
  params.plane_weight_grads = torch::stable::select(planes, 0, 0).data_ptr();
  params.plane_bias_grads = torch::stable::select(planes, 0, 1).data_ptr();
  run(params, x.device());
  return {x_grad, with_dtype(weight_grad, weight.scalar_type()), with_dtype(bias_grad, bias.scalar_type())};
}

// Images as the kernels of convolutions take them, [N, H, W, C] without gaps: what they are with the channels
// last.
Tensor with_channels_innermost(const Tensor& images) {
  return made_contiguous(call_aten("aten::movedim", "int", images, int64_t{1}, int64_t{-1}));
}
// [N, C, H, W] with the channels innermost in memory; no view of another tensor, which autograd would not let
// be written in place.
Tensor empty_channels_last(const Tensor& like, int64_t samples, int64_t channels, int64_t height,
                           int64_t width) {
  const std::vector<int64_t> sizes{samples, channels, height, width};
  const std::vector<int64_t> strides{height * width * channels, 1, width * channels, channels};
  return call_aten("aten::new_empty_strided", "", like, sizes, strides, std::nullopt, std::nullopt,
                   std::nullopt, std::nullopt);
}

void check_convolved(const Checks& checks, const Tensor& images, const char* argument, const char* layout) {
  if (!kHostIsCpu || !images.device().is_cpu())
    checks.refuse(argument, "on the CPU (elsewhere F.conv2d is the faster one)",
                  kHostIsCpu ? text_of_device(images.device()) : "cuda");
  checks.has_dtype(images, argument, ScalarType::Float, "");
  if (images.dim() != 4) checks.refuse(argument, layout, text_of_shape(images.sizes()));
  if (images.size(1) < 1 || images.size(2) < 1 || images.size(3) < 1)
    checks.refuse(argument, text(layout, " with at least one channel and pixel"),
                  text_of_shape(images.sizes()));
}

// The arguments of conv3x3, checked and in order. The tensors are kept because params points into them.
struct ConvolutionInputs {
  Tensor images;
  Tensor weight;
  std::optional<Tensor> bias;
  ConvolutionParams params{};

  ConvolutionInputs(const Checks& checks, const Tensor& x, const Tensor& weight_, const char* weight_name,
                    const std::optional<Tensor>& bias_, const char* bias_name)
      : images(checked(checks, x)), weight(weight_) {
    checks.has_dtype(weight_, weight_name, ScalarType::Float, " like x");
    if (weight_.dim() != 4 || weight_.size(0) < 1)
      checks.refuse(weight_name, "[C', C, 3, 3] with C' at least 1", text_of_shape(weight_.sizes()));
    checks.has_shape(weight_, weight_name, {weight_.size(0), x.size(1), 3, 3}, "[C', C, 3, 3]");
    checks.is_on(weight_, weight_name, x.device(), "x");
    weight = made_contiguous(weight_);
    if (bias_.has_value()) bias = row_of_results(checks, *bias_, bias_name);
    params.samples = x.size(0);
    params.height = x.size(2);
    params.width = x.size(3);
    params.in_channels = x.size(1);
    params.out_channels = weight.size(0);
    params.x = images.const_data_ptr<float>();
    params.weight = weight.const_data_ptr<float>();
    params.bias = bias.has_value() ? bias->const_data_ptr<float>() : nullptr;
  }

  // A number for each of the results' channels.
  Tensor row_of_results(const Checks& checks, const Tensor& row, const char* argument) const {
    checks.has_dtype(row, argument, ScalarType::Float, " like x");
    checks.has_shape(row, argument, {weight.size(0)}, "[C']");
    checks.is_on(row, argument, images.device(), "x");
    return made_contiguous(row);
  }

  Tensor empty(int64_t height, int64_t width) const {
    return empty_channels_last(images, params.samples, params.out_channels, height, width);
  }

 private:
  static Tensor checked(const Checks& checks, const Tensor& x) {
    check_convolved(checks, x, "x", "[N, C, H, W]");
    return with_channels_innermost(x);
  }
};

Tensor conv3x3(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  ConvolutionInputs inputs(Checks("conv3x3"), x, weight, "weight", bias, "bias");
  Tensor result = inputs.empty(x.size(2), x.size(3));
  inputs.params.result = static_cast<float*>(result.data_ptr());
  if constexpr (kHostIsCpu)
    if (inputs.params.samples > 0) convolution::run_cpu(inputs.params);
  return result;
}

Tensor conv3x3_norm_relu_pool(const Tensor& x, const Tensor& conv_weight,
                              const std::optional<Tensor>& conv_bias, const Tensor& weight,
                              const Tensor& bias, double eps, int64_t pool) {
  const Checks checks("conv3x3_norm_relu_pool");
  ConvolutionInputs inputs(checks, x, conv_weight, "conv_weight", conv_bias, "conv_bias");
  const Tensor weight_row = inputs.row_of_results(checks, weight, "weight");
  const Tensor bias_row = inputs.row_of_results(checks, bias, "bias");
  checks.is_finite_and_not_negative(eps, "eps");
  check_pool(checks, x, pool);
  Tensor pooled = inputs.empty(x.size(2) / pool, x.size(3) / pool);
  const convolution::NormPool norm_pool{pool, eps, weight_row.const_data_ptr<float>(),
                                        bias_row.const_data_ptr<float>(),
                                        static_cast<float*>(pooled.data_ptr())};
  if constexpr (kHostIsCpu)
    if (inputs.params.samples > 0) convolution::run_cpu(inputs.params, norm_pool);
  return pooled;
}

std::tuple<Tensor, Tensor> conv3x3_weight_grad(const Tensor& grad, const Tensor& x) {
  const Checks checks("conv3x3_weight_grad");
  check_convolved(checks, x, "x", "[N, C, H, W]");
  check_convolved(checks, grad, "grad", "[N, C', H, W]");
  checks.has_shape(grad, "grad", {x.size(0), grad.size(1), x.size(2), x.size(3)}, "[N, C', H, W]");
  const Tensor images = with_channels_innermost(x);
  const Tensor grads = with_channels_innermost(grad);
  Tensor weight_grad = torch::stable::new_empty(x, {grad.size(1), x.size(1), 3, 3});
  Tensor bias_grad = torch::stable::new_empty(x, {grad.size(1)});
  WeightGradParams params{};
  params.samples = x.size(0);
  params.height = x.size(2);
  params.width = x.size(3);
  params.in_channels = x.size(1);
  params.out_channels = grad.size(1);
  params.x = images.const_data_ptr<float>();
  params.grad = grads.const_data_ptr<float>();
  params.weight_grad = static_cast<float*>(weight_grad.data_ptr());
  params.bias_grad = static_cast<float*>(bias_grad.data_ptr());
  if constexpr (kHostIsCpu) convolution::run_cpu(params);
  return {weight_grad, bias_grad};
}

}  // namespace
}  // namespace dgdd

// The library's name goes through macros of our own, since torch's do not expand it.
#define DGDD_DEFINE(library, m) STABLE_TORCH_LIBRARY(library, m)
#define DGDD_IMPLEMENT(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)

DGDD_DEFINE(DGDD_LIBRARY, m) {
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
  m.def(
      "channel_scores(Tensor features, Tensor weight, Tensor domain_index, bool per_pixel=False) -> Tensor");
  m.def(
      "weighted_channel_mask(Tensor scores, Tensor uniforms, int num_masked, bool normalize=True) -> Tensor");
  m.def(
      "mask_channels(Tensor features, Tensor weight, Tensor domain_index, Tensor uniforms, int num_masked, "
      "bool rescale=True, bool normalize=True, bool per_pixel=False) -> (Tensor masked, Tensor mask)");
  // features * mask * scale: the last step of mask_channels, and its backward.
  m.def("apply_channel_mask(Tensor features, Tensor mask, float scale) -> Tensor");
  m.def(
      "sample_augment(Tensor images, Tensor? rows, Tensor operation, Tensor parameters, Tensor? mean, "
      "Tensor? "
      "std, int[2] crop, int[2] cutout) -> Tensor");
  // The gradient of `images` images from that of the batch.
  m.def(
      "sample_augment_backward(Tensor gradient, Tensor? rows, Tensor operation, Tensor parameters, SymInt "
      "images, int[2] crop, int[2] cutout) -> Tensor");
  m.def("norm_relu_pool(Tensor x, Tensor weight, Tensor bias, float eps=1e-5, int pool=2) -> Tensor");
  m.def(
      "norm_relu_pool_backward(Tensor pooled_grad, Tensor x, Tensor weight, Tensor bias, float eps, "
      "int pool) -> (Tensor x_grad, Tensor weight_grad, Tensor bias_grad)");
  m.def("conv3x3(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.def("conv3x3_weight_grad(Tensor grad, Tensor x) -> (Tensor weight_grad, Tensor bias_grad)");
  m.def(
      "conv3x3_norm_relu_pool(Tensor x, Tensor conv_weight, Tensor? conv_bias, Tensor weight, Tensor bias, "
      "float eps=1e-5, int pool=2) -> Tensor");
}

// The same function for each device: it checks, then branches. A build without CUDA says so instead of "no
// such kernel".
DGDD_IMPLEMENT(DGDD_LIBRARY, CPU, m) {
  m.impl("spectral_consensus", TORCH_BOX(&dgdd::spectral_consensus));
  m.impl("spectral_surgery", TORCH_BOX(&dgdd::spectral_surgery));
  m.impl("spectral_surgery_step_", TORCH_BOX(&dgdd::spectral_surgery_step_));
  m.impl("channel_scores", TORCH_BOX(&dgdd::channel_scores));
  m.impl("weighted_channel_mask", TORCH_BOX(&dgdd::weighted_channel_mask));
  m.impl("mask_channels", TORCH_BOX(&dgdd::mask_channels));
  m.impl("apply_channel_mask", TORCH_BOX(&dgdd::apply_channel_mask));
  m.impl("sample_augment", TORCH_BOX(&dgdd::sample_augment));
  m.impl("sample_augment_backward", TORCH_BOX(&dgdd::sample_augment_backward));
  m.impl("norm_relu_pool", TORCH_BOX(&dgdd::norm_relu_pool));
  m.impl("norm_relu_pool_backward", TORCH_BOX(&dgdd::norm_relu_pool_backward));
  m.impl("conv3x3", TORCH_BOX(&dgdd::conv3x3));
  m.impl("conv3x3_weight_grad", TORCH_BOX(&dgdd::conv3x3_weight_grad));
  m.impl("conv3x3_norm_relu_pool", TORCH_BOX(&dgdd::conv3x3_norm_relu_pool));
}

DGDD_IMPLEMENT(DGDD_LIBRARY, CUDA, m) {
  m.impl("spectral_consensus", TORCH_BOX(&dgdd::spectral_consensus));
  m.impl("spectral_surgery", TORCH_BOX(&dgdd::spectral_surgery));
  m.impl("spectral_surgery_step_", TORCH_BOX(&dgdd::spectral_surgery_step_));
  m.impl("channel_scores", TORCH_BOX(&dgdd::channel_scores));
  m.impl("weighted_channel_mask", TORCH_BOX(&dgdd::weighted_channel_mask));
  m.impl("mask_channels", TORCH_BOX(&dgdd::mask_channels));
  m.impl("apply_channel_mask", TORCH_BOX(&dgdd::apply_channel_mask));
  m.impl("sample_augment", TORCH_BOX(&dgdd::sample_augment));
  m.impl("sample_augment_backward", TORCH_BOX(&dgdd::sample_augment_backward));
  m.impl("norm_relu_pool", TORCH_BOX(&dgdd::norm_relu_pool));
  m.impl("norm_relu_pool_backward", TORCH_BOX(&dgdd::norm_relu_pool_backward));
  m.impl("conv3x3", TORCH_BOX(&dgdd::conv3x3));
  m.impl("conv3x3_weight_grad", TORCH_BOX(&dgdd::conv3x3_weight_grad));
  m.impl("conv3x3_norm_relu_pool", TORCH_BOX(&dgdd::conv3x3_norm_relu_pool));
}
