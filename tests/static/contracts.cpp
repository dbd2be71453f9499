// SPDX-License-Identifier: Apache-2.0
// Accept and reject lists of the contracts, one static_assert each: compiling is passing. What the compiler says of the
// rejected ones is tested in compile_fail/.
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kto/collate/packed.hpp"
#include "kto/collate/padded.hpp"
#include "kto/collate/paired.hpp"
#include "kto/core/fields.hpp"
#include "kto/loss/apo_down.hpp"
#include "kto/loss/apo_zero.hpp"
#include "kto/loss/bco.hpp"
#include "kto/loss/dpo.hpp"
#include "kto/loss/ipo.hpp"
#include "kto/loss/kto.hpp"
#include "kto/model/folds.hpp"
#include "kto/model/module.hpp"
#include "kto/optim/adamw.hpp"
#include "kto/optim/schedule.hpp"
#include "kto/reference/precomputed.hpp"
#include "kto/reference/reused.hpp"
#include "kto/reference/synced.hpp"

namespace test_contracts {
namespace {

using kto::Tensor;

// Losses: the library's, on both array types
template <class Loss>
constexpr bool is_loss =
    kto::LossPolicy<Loss, Tensor> && kto::LossPolicy<Loss, Eigen::ArrayXd> && kto::LossPolicy<Loss, Eigen::ArrayXf>;
static_assert(is_loss<kto::Kto> && is_loss<kto::ApoZeroUnpaired> && is_loss<kto::ApoZeroPaired> &&
              is_loss<kto::ApoDown>);
static_assert(is_loss<kto::Dpo> && is_loss<kto::Ipo> && is_loss<kto::BcoUnpaired>);
static_assert(kto::Observes<kto::BcoUnpaired, Tensor> && !kto::Observes<kto::Kto, Tensor>);

static_assert(kto::NamesObserve<kto::BcoUnpaired> && !kto::NamesObserve<kto::Kto> && !kto::NamesMetrics<kto::Kto>);
static_assert(kto::NamesVisitState<kto::BcoUnpaired> && kto::HasState<kto::BcoUnpaired> &&
              !kto::NamesVisitState<kto::Kto>);

struct TensorOnly {  // enough for training
  static constexpr kto::BatchParts needs{};
  kto::LossTerms<Tensor> operator()(const kto::LossInput<Tensor>&) const;
};
static_assert(kto::LossPolicy<TensorOnly, Tensor> && !kto::LossPolicy<TensorOnly>);
static_assert(!kto::LossPolicy<int> && !kto::LossPolicy<kto::PackedCollator, Tensor>);

struct WrongPrecision {
  static constexpr kto::BatchParts needs{};
  template <class Array>
  kto::LossTerms<Eigen::ArrayXf> operator()(const kto::LossInput<Array>&) const;
};
static_assert(!kto::LossPolicy<WrongPrecision>);

// Losses of a command line: a name, and fields as flags
template <class Loss>
constexpr bool is_offered = kto::NamesItself<Loss> && kto::ListsOptions<Loss>;
static_assert(is_offered<kto::Kto> && is_offered<kto::ApoZeroUnpaired> && is_offered<kto::ApoZeroPaired> &&
              is_offered<kto::ApoDown> && is_offered<kto::Dpo> && is_offered<kto::Ipo> && is_offered<kto::BcoUnpaired>);
static_assert(!kto::NamesItself<TensorOnly> && !kto::ListsOptions<TensorOnly>);

struct WithoutFlags {
  static constexpr std::string_view name = "none";
  static constexpr auto options() { return std::tuple{}; }
};
template <class Loss>
struct WithPart {  // a flag of a part
  static constexpr const char* name = "with_part";
  static constexpr auto options() {
    return std::tuple{kto::LossOption{"beta", [](auto& loss) -> auto& { return loss.part.beta; }, kto::beta_help},
                      kto::LossOption{"weight", &WithPart::weight, "of the part", kto::at_least(0)}};
  }
  Loss part = {};
  double weight = 1;
};
static_assert(is_offered<WithoutFlags> && is_offered<WithPart<kto::Kto>>);
struct EmptyName {
  static constexpr std::string_view name = "";
  static constexpr double options() { return 0; }
};
struct OthersFlags {
  static inline const std::string name = "not constant";
  static constexpr auto options() { return kto::Kto::options(); }
};
struct OneFlag {  // no tuple
  static constexpr auto options() { return kto::LossOption{"beta", &OneFlag::beta, kto::beta_help}; }
  double beta = 0.1;
};
static_assert(!kto::NamesItself<EmptyName> && !kto::ListsOptions<EmptyName>);
static_assert(!kto::NamesItself<OthersFlags> && !kto::ListsOptions<OthersFlags> && !kto::ListsOptions<OneFlag>);

// Members of aggregates: what cannot be listed is not guessed
struct Members {
  double x = 0;
  std::optional<std::string> text = {};
  std::vector<kto::Kto> list = {};
  std::function<void()> function = {};
  struct {
    int a, b;
  } inner = {};
};
struct WithArray {
  int a[3];
  int b;
};
struct WithBase : kto::Kto {
  int a;
};
struct WithPrivate {
  explicit WithPrivate(int x) : x_(x) {}

 private:
  [[maybe_unused]] int x_;
};
static_assert(kto::detail::count_fields<Members>() == 5 && kto::detail::count_fields<kto::Kto>() == 1);
static_assert(kto::detail::count_fields<kto::PaddedCollator>() == 4);
static_assert(!kto::HasFields<WithArray> && !kto::HasFields<WithBase> && !kto::HasFields<WithPrivate> &&
              !kto::HasFields<int>);

// Collators
static_assert(kto::CollatorPolicy<kto::PackedCollator> && kto::CollatorPolicy<kto::PaddedCollator>);
static_assert(kto::CollatorPolicy<kto::PairedCollator<>> &&
              kto::CollatorPolicy<kto::PairedCollator<kto::PaddedCollator>>);
static_assert(!kto::CollatorPolicy<kto::Kto> && !kto::CollatorPolicy<std::span<const kto::Pick>>);
static_assert(kto::FeedsLoss<kto::PackedCollator, kto::Kto> && kto::FeedsLoss<kto::PairedCollator<>, kto::Dpo>);
static_assert(!kto::FeedsLoss<kto::PackedCollator, kto::Dpo> && !kto::FeedsLoss<kto::PairedCollator<>, kto::Kto>);

struct NoKlCollator {
  static constexpr kto::BatchParts provides{};
  kto::Batch operator()(std::span<const kto::Pick>, bool) const;
};
static_assert(kto::CollatorPolicy<NoKlCollator> && kto::FeedsLoss<NoKlCollator, kto::ApoZeroUnpaired>);
static_assert(!kto::FeedsLoss<NoKlCollator, kto::Kto>);

// Models
using Function = kto::FunctionModel<Tensor (*)(const kto::NamedTensors&, const Tensor&, const Tensor&)>;
static_assert(kto::ModelPolicy<kto::Decoder> && kto::GivesHidden<kto::Decoder> && !kto::GivesLogits<kto::Decoder>);
static_assert(kto::ModelPolicy<Function> && kto::GivesLogits<Function>);
static_assert(!kto::ModelPolicy<Tensor> && !kto::ModelPolicy<kto::Head>);
static_assert(kto::FeedsModel<kto::PaddedCollator, Function> && !kto::FeedsModel<kto::PackedCollator, Function>);
static_assert(kto::FeedsModel<kto::PairedCollator<kto::PaddedCollator>, Function> &&
              !kto::FeedsModel<kto::PairedCollator<>, Function>);
static_assert(kto::FeedsModel<kto::PackedCollator, kto::Decoder> && kto::FeedsModel<kto::PaddedCollator, kto::Decoder>);

// References
static_assert(kto::ReferencePolicy<kto::LiveReference<kto::Decoder>, kto::Decoder>);
static_assert(kto::ReferencePolicy<kto::LiveReference<Function>, Function>);
static_assert(!kto::ReferencePolicy<kto::Decoder, kto::Decoder> && !kto::ReferencePolicy<std::nullptr_t, kto::Decoder>);

// Optional parts of models
static_assert(kto::SaysComputeType<kto::Decoder> && kto::TakesNoise<kto::Decoder> && kto::NamesNoise<kto::Decoder>);
static_assert(!kto::SaysComputeType<Function> && !kto::TakesNoise<Function> && !kto::NamesNoise<Function>);
struct OtherParts : kto::Decoder {
  at::ScalarType compute() const;
  float neftune_noise_alpha;
};
static_assert(!kto::SaysComputeType<OtherParts> && !kto::TakesNoise<OtherParts> && kto::NamesNoise<OtherParts>);

// Optional parts of references
using Live = kto::LiveReference<kto::Decoder>;
using Table = kto::PrecomputedReference<kto::Decoder>;
static_assert(kto::SaysStartsAsPolicy<Live> && !kto::SaysStartsAsPolicy<Table>);
static_assert(kto::IdentifiesItself<Table> && !kto::IdentifiesItself<Live>);
static_assert(kto::FixesKlPairs<Table> && !kto::FixesKlPairs<Live>);
static_assert(kto::FollowsPolicy<kto::EmaReference<kto::Decoder>, kto::Decoder> &&
              !kto::FollowsPolicy<Live, kto::Decoder>);
static_assert(kto::SaysFrozen<Live> && !kto::SaysFrozen<kto::EmaReference<kto::Decoder>> && !kto::SaysFrozen<Table>);
using Reused = kto::ReusedReference<Live>;
static_assert(kto::ReferencePolicy<Reused, kto::Decoder> && kto::KeepsLogps<Reused> && !kto::KeepsLogps<Live>);
static_assert(kto::SaysStartsAsPolicy<Reused> && kto::ReferenceHasState<Reused, kto::Decoder> &&
              !kto::FixesKlPairs<Reused>);
struct Derived : Live {};
static_assert(kto::ListsModels<Live> && kto::ListsModels<Derived> && kto::ShowsModels<Derived>);
static_assert(!kto::ListsModels<Table> && kto::ShowsModels<Table> && !kto::NamesVisitModels<Table>);
class Private {
 public:
  template <class Visit>
  void visit_models(const Visit& visit) const {
    visit(model_);
  }

 private:
  kto::Decoder model_;
};
static_assert(kto::ListsModels<Private> && kto::NamesVisitModels<Private>);
class Hidden {
 public:
  explicit Hidden(kto::Decoder model) : model_(std::move(model)) {}
  kto::ReferenceLogps log_probs(const kto::Decoder&, const kto::Batch&) const;

 private:
  kto::Decoder model_;
};
static_assert(kto::GivesReferenceLogps<Hidden, kto::Decoder> && !kto::ShowsModels<Hidden> &&
              !kto::ReferencePolicy<Hidden, kto::Decoder>);
struct WrongParts {
  int starts_as_policy;
  std::string identity() const;
  void visit_models() const;
};
static_assert(kto::NamesStartsAsPolicy<WrongParts> && !kto::SaysStartsAsPolicy<WrongParts>);
static_assert(kto::NamesIdentity<WrongParts> && !kto::IdentifiesItself<WrongParts>);
static_assert(kto::NamesVisitModels<WrongParts> && !kto::ListsModels<WrongParts>);

// Optimizers
static_assert(kto::OptimizerPolicy<kto::AdamW> && !kto::OptimizerPolicy<kto::Schedule>);

}  // namespace
}  // namespace test_contracts
