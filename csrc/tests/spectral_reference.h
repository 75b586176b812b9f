// Calls of the spectral operators for kernel tests, and the truth about them: float64, transforms by their
// definition, written from the operators' contract (spectral/params.h) and from nothing else.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <vector>

#include "half.h"
#include "spectral/params.h"

namespace dgdd::tests {

using spectral::SpectralParams;

enum class Operator { consensus, surgery, step };

template <class Stored>
constexpr Storage storage_of() {
  return std::is_same_v<Stored, BFloat16>  ? Storage::bfloat16
         : std::is_same_v<Stored, Float16> ? Storage::float16
                                           : Storage::float32;
}
// The distance from 1 to the next number.
template <class Stored>
constexpr double precision() {
  return std::is_same_v<Stored, BFloat16> ? 0x1p-7 : std::is_same_v<Stored, Float16> ? 0x1p-10 : 0x1p-23;
}

// One call with its data. Fill in what differs from the defaults, then `draw`.
template <class Stored>
struct Call {
  Operator op = Operator::surgery;
  int domains = 3, samples = 1, channels = 1, height = 32, width = 32;
  bool base = false, weighted_deviation = true;
  double alpha = 1.3, beta = 0.4, eps = 1e-12, learning_rate = 0.7, momentum = 0.9;
  double scale = 1;  // of the gradients
  std::vector<int64_t> domain_index;
  std::vector<char> domain_valid;  // [D, N] of 0 and 1, or empty

  std::vector<Stored> domain_grads, base_grad, images, momentum_buffer, update, class_signal,
      resultant_length;

  int64_t planes() const { return int64_t{samples} * channels; }
  int64_t pixels() const { return int64_t{height} * width; }
  bool is_valid(int domain, int64_t sample) const {
    return domain_valid.empty() || domain_valid[static_cast<size_t>(domain * samples + sample)];
  }
  Stored& gradient(int domain, int64_t plane, int64_t pixel) {
    return domain_grads[static_cast<size_t>((domain * planes() + plane) * pixels() + pixel)];
  }

  // What no operator may look at: NaN in the gradients of all domains that are left out.
  void spoil_invalid_domains() {
    for (int domain = 0; domain < domains; ++domain)
      for (int64_t plane = 0; plane < planes(); ++plane)
        for (int64_t i = 0; i < pixels() && !is_valid(domain, plane / channels); ++i)
          gradient(domain, plane, i) = store<Stored>(std::numeric_limits<float>::quiet_NaN());
  }

  // Gradients with a common part, so that the agreement covers all of (0, 1).
  void draw(unsigned seed) {
    std::mt19937 random(seed);
    const auto normal = [&] {  // near enough
      double sum = -6;
      for (int i = 0; i < 12; ++i) sum += random() * 0x1p-32;
      return static_cast<float>(sum * scale);
    };
    const auto fill = [&](std::vector<Stored>& values, int64_t count) {
      values.resize(static_cast<size_t>(count));
      for (Stored& value : values) value = store<Stored>(normal());
    };
    std::vector<float> common(static_cast<size_t>(planes() * pixels()));
    for (float& value : common) value = normal();
    domain_grads.clear();
    for (int domain = 0; domain < domains; ++domain)
      for (const float value : common) domain_grads.push_back(store<Stored>(value + normal()));
    if (base) fill(base_grad, planes() * pixels());
    if (domain_index.empty())
      for (int64_t sample = 0; sample < samples; ++sample) domain_index.push_back((2 * sample + 1) % domains);
    const Stored unwritten = store<Stored>(123.0f);
    if (op == Operator::consensus) {
      class_signal.assign(static_cast<size_t>(planes() * pixels()), unwritten);
      resultant_length.assign(static_cast<size_t>(planes() * height * (width / 2 + 1)), unwritten);
    } else if (op == Operator::surgery) {
      update.assign(static_cast<size_t>(planes() * pixels()), unwritten);
    } else {
      fill(images, planes() * pixels());
      fill(momentum_buffer, planes() * pixels());
    }
  }

  SpectralParams params() {
    const auto pointer = [](std::vector<Stored>& values) { return values.empty() ? nullptr : values.data(); };
    SpectralParams result{};
    result.domains = domains;
    result.samples = op == Operator::consensus ? planes() : samples;
    result.channels = op == Operator::consensus ? 1 : channels;
    result.height = height;
    result.width = width;
    result.storage = storage_of<Stored>();
    result.domain_grads = domain_grads.data();
    result.eps = eps;
    result.class_signal = pointer(class_signal);
    result.resultant_length = pointer(resultant_length);
    if (op == Operator::consensus) return result;
    result.base_grad = pointer(base_grad);
    result.domain_index = domain_index.data();
    result.domain_valid = domain_valid.empty() ? nullptr : reinterpret_cast<const bool*>(domain_valid.data());
    result.alpha = alpha;
    result.beta = beta;
    result.learning_rate = learning_rate;
    result.momentum = momentum;
    result.weighted_deviation = weighted_deviation;
    result.update = pointer(update);
    result.images = pointer(images);
    result.momentum_buffer = pointer(momentum_buffer);
    return result;
  }
};

using Values = std::vector<double>;

// What a call must write: the two results of the operator, the second one empty for surgery.
struct Truth {
  Values first;   // class_signal, update or images
  Values second;  // resultant_length or momentum_buffer
};

using Spectrum = std::vector<std::complex<double>>;

// The two-dimensional transform by its definition, one axis after the other; sign -1 is forward.
inline Spectrum transformed(const Spectrum& values, int height, int width, int sign) {
  const auto axis = [sign](const Spectrum& in, int lines, int line_step, int count, int step) {
    std::vector<std::complex<double>> roots(static_cast<size_t>(count));
    for (int k = 0; k < count; ++k)
      roots[static_cast<size_t>(k)] = std::polar(1.0, sign * 2 * std::numbers::pi * k / count);
    Spectrum out(in.size());
    for (int line = 0; line < lines; ++line)
      for (int k = 0; k < count; ++k) {
        double re = 0, im = 0;
        for (int i = 0; i < count; ++i) {
          const auto& value = in[static_cast<size_t>(line * line_step + i * step)];
          const auto& root = roots[static_cast<size_t>(i * k % count)];
          re += value.real() * root.real() - value.imag() * root.imag();
          im += value.real() * root.imag() + value.imag() * root.real();
        }
        out[static_cast<size_t>(line * line_step + k * step)] = {re, im};
      }
    return out;
  };
  return axis(axis(values, width, 1, height, width), height, width, width, 1);
}

template <class Stored>
Truth truth(Call<Stored>& call) {
  const int height = call.height, width = call.width;
  const size_t pixels = static_cast<size_t>(call.pixels());
  Truth result;
  for (int64_t plane = 0; plane < call.planes(); ++plane) {
    const int64_t sample = plane / call.channels;
    const bool masks = call.op != Operator::consensus;
    int valid = 0;
    Values mean(pixels), magnitudes(pixels);
    Spectrum sum(pixels);
    const auto values_of = [&](int domain) {
      Values values;
      for (int64_t i = 0; i < call.pixels(); ++i)
        values.push_back(static_cast<double>(load(call.gradient(domain, plane, i))));
      return values;
    };
    for (int domain = 0; domain < call.domains; ++domain) {
      if (masks && !call.is_valid(domain, sample)) continue;
      ++valid;
      const Values values = values_of(domain);
      const Spectrum spectrum = transformed(Spectrum(values.begin(), values.end()), height, width, -1);
      for (size_t i = 0; i < pixels; ++i) {
        mean[i] += values[i];
        sum[i] += spectrum[i];
        magnitudes[i] += std::abs(spectrum[i]);
      }
    }
    Values length(pixels);
    Spectrum consensus(pixels);
    for (size_t i = 0; i < pixels; ++i) {
      mean[i] /= valid == 0 ? 1 : valid;
      const double denominator = magnitudes[i] + call.eps;
      length[i] = denominator == 0 ? 0 : std::abs(sum[i]) / denominator;
      consensus[i] = length[i] * sum[i] / static_cast<double>(valid == 0 ? 1 : valid);
    }
    const Spectrum signal = transformed(consensus, height, width, 1);
    if (call.op == Operator::consensus) {
      for (size_t i = 0; i < pixels; ++i)
        result.first.push_back(signal[i].real() / static_cast<double>(pixels));
      for (int y = 0; y < height; ++y)
        for (int x = 0; x <= width / 2; ++x)
          result.second.push_back(length[static_cast<size_t>(y * width + x)]);
      continue;
    }
    const int64_t assigned = call.domain_index[static_cast<size_t>(sample)];
    const bool in_range = assigned >= 0 && assigned < call.domains;
    const bool deviates = in_range && call.is_valid(static_cast<int>(assigned), sample);
    const Values own = deviates ? values_of(static_cast<int>(assigned)) : Values(pixels);
    for (size_t i = 0; i < pixels; ++i) {
      const size_t at = static_cast<size_t>(plane) * pixels + i;
      const double class_signal = signal[i].real() / static_cast<double>(pixels);
      const double centre = call.weighted_deviation ? class_signal : mean[i];
      const double base = call.base ? static_cast<double>(load(call.base_grad[at])) : mean[i];
      double update = base + call.alpha * class_signal + (deviates ? call.beta * (own[i] - centre) : 0.0);
      if (!in_range) update = std::numeric_limits<double>::quiet_NaN();
      if (call.op == Operator::surgery) {
        result.first.push_back(update);
        continue;
      }
      const double velocity = call.momentum * static_cast<double>(load(call.momentum_buffer[at])) + update;
      result.first.push_back(static_cast<double>(load(call.images[at])) - call.learning_rate * velocity);
      result.second.push_back(velocity);
    }
  }
  return result;
}

// What `relative_error` must stay below.
template <class Stored>
double tolerance() {
  if (std::is_same_v<Stored, double>) return 1e-14;
  return sizeof(Stored) == 4 ? 3e-7 : precision<Stored>();
}

template <class Stored>
bool same_bits(const Stored* a, const Stored* b, int64_t count) {
  return count == 0 || std::memcmp(a, b, static_cast<size_t>(count) * sizeof(Stored)) == 0;
}

// The L2 norm of the error over that of the truth in one of `parts` equal parts, NaN where either is.
template <class Stored>
double relative_error(const std::vector<Stored>& result, const Values& truth, int64_t part = 0,
                      int64_t parts = 1) {
  if (result.size() != truth.size()) return std::numeric_limits<double>::infinity();
  const size_t size = truth.size() / static_cast<size_t>(parts), begin = static_cast<size_t>(part) * size;
  double error = 0, norm = 0;
  for (size_t i = begin; i < begin + size; ++i) {
    const double difference = static_cast<double>(load(result[i])) - truth[i];
    error += difference * difference;
    norm += truth[i] * truth[i];
  }
  return std::sqrt(norm == 0 ? error : error / norm);
}

// The call's results, in the order of Truth.
template <class Stored>
const std::vector<Stored>& first_result(const Call<Stored>& call) {
  return call.op == Operator::consensus ? call.class_signal
         : call.op == Operator::surgery ? call.update
                                        : call.images;
}
template <class Stored>
const std::vector<Stored>& second_result(const Call<Stored>& call) {
  static const std::vector<Stored> none;
  return call.op == Operator::consensus ? call.resultant_length
         : call.op == Operator::surgery ? none
                                        : call.momentum_buffer;
}

}  // namespace dgdd::tests
