// --draft: how verbs that generate use the drafter.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <ds4/config/config_values.hpp>
#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/decode/draft_length.hpp>
#include <ds4/decode/sampler.hpp>
#include <ds4/runtime/any_model.hpp>

#include "cli/io.hpp"
#include "cli/verb.hpp"

namespace ds4::cli {

/// The value of --draft as a length; nothing for "off" and what is none.
inline std::optional<DraftLength> parse_draft_length(const std::string& text) {
  if (text == "auto") return DraftLength::automatic();
  std::size_t length = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, length);
  const bool whole = parsed.ec == std::errc{} && parsed.ptr == end;
  if (!whole || length == 0 || length > DraftLength::kMost) return std::nullopt;
  return DraftLength::fixed(length);
}

inline void add_draft_option(Verb& verb, std::string& draft) {
  const std::string most = std::to_string(DraftLength::kMost);
  verb.add_option("--draft", draft,
                  "Tokens that the drafter guesses for each pass to verify: 1 to " + most +
                      ", auto (as many as pay), or off")
      .capture_default_str()
      .check([most](const std::string& text) {
        const bool valid = text == "off" || parse_draft_length(text);
        return valid ? ""
                     : "expected a number from 1 to " + most + ", auto or off, found " +
                           detail::in_quotes(text);
      });
}

/// The most tokens that the model's drafter can draft.
inline std::size_t longest_draft(const AnyModel& model) {
  return model.drafter() == DrafterKind::dspark ? model.config().dspark_block_size
                                                : DraftLength::kMost;
}

/// The draft length to use with a model: none, with a note unless it is wished, for a checkpoint
/// that has nothing to draft with.
inline std::optional<DraftLength> draft_length_for(const AnyModel& model,
                                                   const std::string& draft) {
  const auto length = parse_draft_length(draft);
  if (!length || model.drafter() != DrafterKind::none) return length;
  complain("ds4: --draft: found no drafter in the checkpoint, so there are no drafts");
  return std::nullopt;
}

/// Throws ds4::Error if the checkpoint has no multi-token-prediction layer.
inline void expect_mtp(const AnyModel& model) {
  if (model.drafter() == DrafterKind::mtp) return;
  throw Error("--mtp", "expected a checkpoint with a multi-token-prediction layer, found " +
                           std::string(name_of(model.drafter())));
}

/// Whether a text ends with this token.
inline bool ends_text(const ConfigValues& config, std::int32_t id) {
  return std::ranges::count(config.eos_token_ids, static_cast<std::size_t>(id)) != 0;
}

/// Appends tokens to a session behind these logits: until next(id) refuses one, until there are
/// `most` or the context is full, or until it is interrupted. With drafts if there is a length.
/// Returns the tokens that decoding gave, the first one of all being the logits' own.
template <class Next>
std::size_t generate(AnyModel& model, AnySession& session, const Logits& logits, Sampler& sampler,
                     std::optional<DraftLength>& length, std::size_t most, Next&& next) {
  auto& [ids, state] = session;
  // The last token is not taken in, hence one more than the context has room for.
  std::size_t left =
      std::min(most, model.config().max_position_embeddings - model.position(state) + 1);
  std::size_t decoded = 0;
  std::vector<std::int32_t> chosen{sampler(logits.values)};
  while (left > 0 && !interrupted()) {
    const auto end = std::ranges::find_if_not(chosen, next);
    ids.insert(ids.end(), chosen.begin(), end);
    left -= static_cast<std::size_t>(end - chosen.begin());
    if (end != chosen.end() || left == 0) break;
    const std::int32_t id = ids.back();
    chosen = length ? model.decode_with_drafts(state, id, sampler, *length, left)
                    : std::vector{sampler(model.decode(state, id).values)};
    decoded += chosen.size();
  }
  // A draft may have gone on behind the end.
  if (const std::size_t taken = model.position(state); taken > ids.size()) {
    model.rollback(state, taken - ids.size());
  }
  return decoded;
}

/// "drafts: 64.8 % of 120 tokens accepted, 1.65 tokens a pass, 1.41 x the speed without"
inline std::string to_string(const DraftTotals& totals) {
  char text[160];
  std::snprintf(text, sizeof(text),
                "drafts: %.1f %% of %zu tokens accepted, %.2f tokens a pass, %.2f x the speed "
                "without",
                100.0 * totals.acceptance(), totals.drafted, totals.tokens_per_pass(),
                totals.speed_up());
  return text;
}

}  // namespace ds4::cli
