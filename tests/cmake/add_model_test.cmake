# cmake -DOUT=<folder> -P add_model_test.cmake: ds4_model_header() on every config.json of the tests,
# written to OUT for a compiler to read, and on broken ones, which must fail with the right text.
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/../../cmake/ds4AddModel.cmake")

if(CONFIG) # one broken file, run by expect_failure() below
  ds4_model_header(ignored "${CONFIG}" broken)
  return()
endif()
if(NOT OUT)
  message(FATAL_ERROR "expected -DOUT=<folder>, found none")
endif()

set(data "${CMAKE_CURRENT_LIST_DIR}/../data")
set(models "${CMAKE_CURRENT_LIST_DIR}/../../models")
foreach(case "tiny_flash ${data}/tiny-flash" "tiny_pro_yarn ${data}/tiny-pro-yarn"
        "quant ${data}/quant" "austen ${models}/austen")
  string(REGEX MATCH "^[a-z_]+" name "${case}")
  string(REGEX REPLACE "^[a-z_]+ " "" folder "${case}")
  ds4_model_header(header "${folder}/config.json" ${name})
  file(WRITE "${OUT}/ds4/models/${name}_config.hpp" "${header}")
endforeach()

file(READ "${data}/quant/config.json" release)
file(READ "${data}/tiny-flash/config.json" transformers)

# Fails unless the header for the JSON text contains a line.
function(expect_line name json line)
  file(WRITE "${OUT}/${name}.json" "${json}")
  ds4_model_header(header "${OUT}/${name}.json" ${name})
  string(FIND "${header}" "${line}\n" at)
  if(at EQUAL -1)
    message(SEND_ERROR "${name}: expected '${line}', found: ${header}")
  endif()
endfunction()
string(JSON json REMOVE "${transformers}" qk_rope_head_dim)
expect_line(width "${json}" "qk_rope_head_dim = static_cast<std::size_t>(static_cast<double>(head_dim) * 0.25);")
string(JSON json SET "${release}" compress_ratios "[0, 8, 8, 0]")
expect_line(csa "${json}" "CompressRates compress_rates{8, 128};")
expect_line(no_extra "${json}" "std::array<std::size_t, 4> compress_ratios{0, 8, 8, 0};")
string(JSON json SET "${release}" compress_ratios "[0, 64, 64, 0]")
expect_line(hca "${json}" "CompressRates compress_rates{4, 64};")
string(JSON json SET "${release}" compress_ratios "[0, 64, 32, 0, 0]")
expect_line(both "${json}" "CompressRates compress_rates{32, 64};")
string(JSON json SET "${release}" rope_scaling "null")
expect_line(unscaled "${json}" "RopeScaling rope_scaling{};")
string(JSON json REMOVE "${release}" num_nextn_predict_layers)
string(JSON json REMOVE "${json}" compress_ratios 4)
expect_line(no_mtp "${json}" "num_nextn_predict_layers = 0;")

# Fails unless ds4_model_header() refuses the JSON text, with the pattern in its message.
function(expect_failure name json pattern)
  file(WRITE "${OUT}/${name}.json" "${json}")
  execute_process(
    COMMAND "${CMAKE_COMMAND}" "-DCONFIG=${OUT}/${name}.json" -P "${CMAKE_CURRENT_FUNCTION_LIST_FILE}"
    RESULT_VARIABLE result ERROR_VARIABLE text OUTPUT_QUIET)
  string(REGEX REPLACE "[ \n]+" " " text "${text}") # CMake wraps lines
  if(result EQUAL 0 OR NOT text MATCHES "${pattern}")
    message(SEND_ERROR "${name}: expected a failure with '${pattern}', found ${result} and: ${text}")
  elseif(NOT text MATCHES "${name}.json")
    message(SEND_ERROR "${name}: expected the file's name in: ${text}")
  endif()
endfunction()

# expect_failure() with one value of a form replaced, ARGN its path of keys.
function(expect_failure_with name form pattern value)
  string(JSON json SET "${form}" ${ARGN} "${value}")
  expect_failure(${name} "${json}" "${pattern}")
endfunction()

string(JSON json SET "${release}" compress_ratios "[4, 8, 16, 0]")
expect_failure(three "${json}" "compress_ratios: expected at most two different ratios")
string(JSON json REMOVE "${release}" hidden_size)
string(JSON json REMOVE "${json}" compress_rope_theta)
expect_failure(missing "${json}" "missing hidden_size, compress_rope_theta")
string(JSON json REMOVE "${transformers}" compress_rates)
expect_failure(no_rates "${json}" "missing compress_rates.compressed_sparse_attention")
string(JSON json REMOVE "${transformers}" num_hidden_layers)
expect_failure(no_layers "${json}" "json: missing num_hidden_layers Call Stack")
string(JSON json REMOVE "${release}" num_hidden_layers)
expect_failure(no_layers_release "${json}" "json: missing num_hidden_layers Call Stack")
expect_failure(empty "{}" "missing model_type, .*vocab_size.*num_hash_layers.*qk_rope_head_dim")
expect_failure(text "{\"a\"" "expected a JSON object")
expect_failure(array "[]" "expected a JSON object, found ARRAY")
expect_failure_with(string "${release}" "hidden_size: expected INTEGER, found wide" "\"wide\"" hidden_size)
expect_failure_with(negative "${release}" "hidden_size: expected INTEGER, found -4" "-4" hidden_size)
expect_failure_with(fraction "${release}" "hidden_size: expected INTEGER, found 4.5" "4.5" hidden_size)
expect_failure_with(huge "${release}" "hidden_size: expected INTEGER, found 1e.30" "1e30" hidden_size)
expect_failure_with(type "${release}" "model_type: expected deepseek_v4, found llama" "\"llama\"" model_type)
expect_failure_with(kv_heads "${release}" "num_key_value_heads: expected 1, found 2" "2" num_key_value_heads)
expect_failure_with(tied "${release}" "tie_word_embeddings: expected OFF, found ON" "true" tie_word_embeddings)
expect_failure_with(short "${release}" "compress_ratios: expected 4 entries, found 2" "[0, 4]" compress_ratios)
expect_failure_with(extra "${release}" "compress_ratios: expected 0 behind the main layers, found 4"
                    "4" compress_ratios 4)
expect_failure_with(rope "${release}" "rope_scaling.rope_type: expected default or yarn, found linear"
                    "\"linear\"" rope_scaling type)
expect_failure_with(attention "${release}" "rope_scaling.attention_factor: expected 1, found 2"
                    "2" rope_scaling attention_factor)
expect_failure_with(layer_type "${transformers}" "layer_types: expected .*, found full_attention"
                    "\"full_attention\"" layer_types 0)
expect_failure_with(prefix "${transformers}" "mlp_layer_types: expected hash_moe, then moe"
                    "\"hash_moe\"" mlp_layer_types 5)
expect_failure_with(theta "${transformers}" "compress_rope_theta: expected 160000 as in .*, found 1"
                    "1" compress_rope_theta)
