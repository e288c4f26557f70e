// The fixed texts of the releases' chat encoding, as they are: any other byte would be another
// prompt.
#pragma once

#include <string_view>

#include <ds4/core/version.hpp>

namespace ds4::inline v0_1::detail {

///@{
/// Behind the begin token where the assistant thinks: for the effort high of the releases since
/// 0731, which is max of the preview, and for their max. Source: model.md 12.2.
inline constexpr std::string_view kEffortHigh =
    R"txt(Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.

)txt";
inline constexpr std::string_view kEffortMax =
    R"txt(Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no assumption remains unchecked and no error remains undiscovered.

)txt";
///@}

///@{
/// In front of and behind the tools. Every DSML mark and think tag in it is the token. Source:
/// model.md 12.3.
inline constexpr std::string_view kToolsHead = R"txt(## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

)txt";
inline constexpr std::string_view kToolsTail = R"txt(

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
)txt";
///@}

///@{
/// In front of a schema, and where any JSON object will do. Source: model.md 12.4.
inline constexpr std::string_view kSchemaHead = R"txt(## Response Format:

You MUST strictly adhere to the following schema to reply:
)txt";
inline constexpr std::string_view kJsonObject =
    R"txt(You are a helpful assistant designed to output JSON.
## Response Format:

Reply with JSON object ONLY.)txt";
///@}

}  // namespace ds4::inline v0_1::detail
