// Tests of ds4/config/layer_sequence.hpp: schedules, the type of every layer, the order of visits.
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <ds4/config/config.hpp>
#include <ds4/config/layer_sequence.hpp>
#include <ds4/kernels/reference.hpp>
#include <ds4/layers/decoder_layer.hpp>
#include <ds4/layers/hyper_connection.hpp>
#include <ds4/layers/mtp.hpp>

namespace {

using ds4::Flash;
using ds4::LayerSequence;
using ds4::Pro;
using ds4::RouterKind;
using ds4::Schedule;
using Backend = ds4::Reference<float>;

/// Stands for a layer: says which kind it is made for.
template <std::size_t R, RouterKind K>
struct Kind {
  static constexpr std::size_t kRatio = R;
  static constexpr RouterKind kRouter = K;
  int touched = 0;
};
struct Kinds {
  template <std::size_t Ratio, RouterKind Router>
  using element = Kind<Ratio, Router>;
};

template <class C>
struct Layers {
  template <std::size_t Ratio, RouterKind Router>
  using element = ds4::DecoderLayer<C, Ratio, Router, Backend>;
};

constexpr RouterKind kHash = RouterKind::hash;
constexpr RouterKind kLearned = RouterKind::learned;

template <class C>
using KindsOf = LayerSequence<C, Kinds>;
template <class C>
using Prefix = decltype(KindsOf<C>::prefix);
template <class C>
using Suffix = decltype(KindsOf<C>::suffix);

template <class C>
constexpr bool has_release_pairs() {
  using Pair = typename KindsOf<C>::Pair;
  return std::is_same_v<decltype(Pair::hca), Kind<128, kLearned>> &&
         std::is_same_v<decltype(Pair::csa), Kind<4, kLearned>>;
}

// Flash and Pro: a prefix of three hash-routed layers, then 20 or 29 pairs, model.md 1.1.
static_assert(ds4::schedule<Flash>() == Schedule{3, 20, 0});
static_assert(
    std::is_same_v<Prefix<Flash>, std::tuple<Kind<0, kHash>, Kind<0, kHash>, Kind<4, kHash>>>);
static_assert(has_release_pairs<Flash>());
static_assert(std::is_same_v<Suffix<Flash>, std::tuple<>>);

static_assert(ds4::schedule<Pro>() == Schedule{3, 29, 0});
static_assert(
    std::is_same_v<Prefix<Pro>, std::tuple<Kind<128, kHash>, Kind<128, kHash>, Kind<4, kHash>>>);
static_assert(has_release_pairs<Pro>());
static_assert(std::is_same_v<Suffix<Pro>, std::tuple<>>);

/// Flash with other ratios and hash-routed layers.
template <std::size_t HashLayers, std::size_t... Ratios>
struct With : Flash {
  static constexpr std::size_t num_hidden_layers = sizeof...(Ratios);
  static constexpr std::size_t num_hash_layers = HashLayers;
  static constexpr std::array<std::size_t, sizeof...(Ratios)> compress_ratios{Ratios...};
  static constexpr std::size_t dspark_stages = 0;
};
template <class C>
constexpr Schedule kOf = ds4::schedule<C>();

static_assert(kOf<With<1, 0, 128, 4, 128, 4, 4, 0>> == Schedule{1, 2, 2}, "a suffix");
static_assert(kOf<With<0, 0, 4, 4, 0>> == Schedule{4, 0, 0}, "without a pair all is prefix");
static_assert(kOf<With<0, 4, 128, 4>> == Schedule{1, 1, 0}, "CSA, HCA is no pair");
static_assert(kOf<With<0, 4, 128>> == Schedule{2, 0, 0});
static_assert(kOf<With<4, 128, 4, 128, 4>> == Schedule{4, 0, 0}, "pairs are learned-routed");
static_assert(kOf<With<1, 128, 4, 128, 4>> == Schedule{2, 1, 0}, "half hash-routed is no pair");
static_assert(kOf<With<0, 128, 4, 128, 4>> == Schedule{0, 2, 0}, "no prefix");
static_assert(kOf<With<0, 128, 4, 0, 128, 4, 128, 4, 0>> == Schedule{3, 2, 1}, "the longest run");
static_assert(kOf<With<0, 128, 4, 0, 128, 4>> == Schedule{0, 1, 3}, "of two equal runs the first");
static_assert(kOf<With<0, 128, 4, 128>> == Schedule{0, 1, 1}, "an HCA layer left over");
static_assert(kOf<With<1, 0>> == Schedule{1, 0, 0}, "a single layer");

using Mixed = With<2, 0, 4, 128, 4, 128, 4, 128, 0>;
static_assert(kOf<Mixed> == Schedule{2, 2, 2});
static_assert(std::is_same_v<Prefix<Mixed>, std::tuple<Kind<0, kHash>, Kind<4, kHash>>>);
static_assert(std::is_same_v<Suffix<Mixed>, std::tuple<Kind<128, kLearned>, Kind<0, kLearned>>>);

/// Other ratios than the release's give the pairs their types.
struct OtherRates : With<0, 16, 8, 16, 8> {
  static constexpr ds4::CompressRates compress_rates{8, 16};
};
static_assert(kOf<OtherRates> == Schedule{0, 2, 0});
static_assert(KindsOf<OtherRates>::Pair{}.hca.kRatio == 16);
static_assert(KindsOf<OtherRates>::Pair{}.csa.kRatio == 8);

// One type per kind of layer: what 43 or 61 layers cost to compile.
template <class Types, class T>
struct Add;
template <class... Known, class T>
struct Add<std::tuple<Known...>, T> {
  using type = std::conditional_t<(std::is_same_v<Known, T> || ...), std::tuple<Known...>,
                                  std::tuple<Known..., T>>;
};
template <class Types, class... More>
struct AddAll {
  using type = Types;
};
template <class Types, class First, class... More>
struct AddAll<Types, First, More...> : AddAll<typename Add<Types, First>::type, More...> {};

template <class Sequence, class Prefix, class Suffix>
struct Distinct;
template <class Sequence, class... P, class... S>
struct Distinct<Sequence, std::tuple<P...>, std::tuple<S...>>
    : AddAll<std::tuple<>, P..., decltype(Sequence::Pair::hca), decltype(Sequence::Pair::csa),
             S...> {};
template <class Sequence>
constexpr std::size_t kDistinct = std::tuple_size_v<
    typename Distinct<Sequence, decltype(Sequence::prefix), decltype(Sequence::suffix)>::type>;

using FlashLayers = LayerSequence<Flash, Layers<Flash>>;
using ProLayers = LayerSequence<Pro, Layers<Pro>>;
static_assert(kDistinct<FlashLayers> == 4);
static_assert(kDistinct<ProLayers> == 4);
static_assert(std::is_same_v<std::tuple_element_t<0, decltype(FlashLayers::prefix)>,
                             std::tuple_element_t<1, decltype(FlashLayers::prefix)>>);
static_assert(std::is_same_v<decltype(FlashLayers::Pair::csa),
                             ds4::DecoderLayer<Flash, 4, kLearned, Backend>>);

template <class C>
constexpr std::size_t kRatioOf(std::size_t layer) {
  return C::compress_ratios[layer];
}

/// Adds up the weights that visit it.
struct Counter {
  std::size_t parameters = 0;
  std::size_t table_entries = 0;
  template <class M>
    requires requires { M::kRows; }
  void operator()(std::string_view, M&) {
    parameters += M::kRows * M::kCols;
  }
  template <class T, std::size_t... E>
  void operator()(std::string_view, ds4::Tensor<T, E...>& parameter) {
    parameters += parameter.size();
  }
  template <class Table>
  void table(std::string_view, Table& table, std::size_t) {
    table_entries += table.size();
  }
  template <class Experts>
  void experts(std::string_view prefix, Experts& experts) {
    for (auto& expert : experts) group(prefix, expert);
  }
  template <class Part>
  void group(std::string_view, Part& part) {
    part.visit(*this);
  }
};

template <class C>
Counter main_weights() {
  Counter count;
  LayerSequence<C, Layers<C>> layers;
  layers.for_each([&](std::size_t, auto& layer) { layer.visit(count); });
  ds4::HyperHead<C, Backend> head;
  head.visit(count);
  count.parameters += 2 * C::vocab_size * C::hidden_size + C::hidden_size;  // embed, head, norm
  return count;
}

template <class C>
std::size_t mtp_weights() {
  Counter count;
  ds4::MtpLayer<C, Backend> layer;
  layer.visit(count);
  return count.parameters;
}

}  // namespace

TEST_CASE_TEMPLATE("layer sequence: every layer is visited once, in order, as its kind", C, Flash,
                   Pro, Mixed, OtherRates, With<4, 128, 4, 128, 4>) {
  KindsOf<C> sequence;
  CHECK(sequence.pairs.size() == KindsOf<C>::kSchedule.pairs);
  std::size_t next = 0;
  sequence.for_each([&](std::size_t number, auto& layer) {
    INFO("layer ", number);
    CHECK(number == next++);
    CHECK(layer.kRatio == kRatioOf<C>(number));
    CHECK(layer.kRouter == ds4::router_kind<C>(number));
    ++layer.touched;
  });
  CHECK(next == C::num_hidden_layers);
  // Each number had an element of its own.
  sequence.for_each([&](std::size_t, auto& layer) { CHECK(layer.touched == 1); });
}

TEST_CASE_TEMPLATE("layer sequence: a layer meets its own counterparts", C, Flash, Mixed,
                   With<1, 0>) {
  const KindsOf<C> layers;
  std::vector<KindsOf<C>> states(3);
  std::vector<KindsOf<C>*> pointers;
  for (std::size_t i = 0; i < states.size(); ++i) {
    states[i].for_each([&](std::size_t number, auto& state) {
      state.touched = static_cast<int>(100 * i + number);
    });
    pointers.push_back(&states[i]);
  }
  std::size_t next = 0;
  Backend backend;
  layers.for_each_with(
      backend, std::span<KindsOf<C>* const>(pointers),
      [&](std::size_t number, const auto& layer, auto counterparts) {
        INFO("layer ", number);
        CHECK(number == next++);
        REQUIRE(counterparts.size() == 3);
        static_assert(std::is_same_v<std::remove_cvref_t<decltype(*counterparts[0])>,
                                     std::remove_cvref_t<decltype(layer)>>);
        for (std::size_t i = 0; i < 3; ++i) {
          CHECK(counterparts[i]->touched == static_cast<int>(100 * i + number));
        }
      });
  CHECK(next == C::num_hidden_layers);
}

TEST_CASE("layer sequence: copies are independent") {
  KindsOf<Mixed> original;
  auto copy = original;
  copy.for_each([](std::size_t, auto& layer) { layer.touched = 1; });
  original.for_each([](std::size_t, auto& layer) { CHECK(layer.touched == 0); });
}

TEST_CASE("layer sequence: the released models have the parameters they state") {
  // model.md 11: parameters without the hash tables, and of the extra layer.
  const Counter flash = main_weights<Flash>();
  CHECK(flash.parameters == 284'332'240'471);
  CHECK(flash.table_entries == 3 * 129280 * 6);
  CHECK(mtp_weights<Flash>() == 6'610'048'891);
  const Counter pro = main_weights<Pro>();
  CHECK(pro.parameters == 1'572'997'201'763);
  CHECK(pro.table_entries == 3 * 129280 * 6);
  CHECK(mtp_weights<Pro>() == 25'840'145'979);
}
