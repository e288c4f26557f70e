// The functions of ds4 that are no templates, compiled once; see ds4/core/linkage.hpp.
#include <ds4/checkpoint/checkpoint_writer_definitions.hpp>
#include <ds4/checkpoint/convert_definitions.hpp>
#include <ds4/checkpoint/safetensors_definitions.hpp>
#include <ds4/config/config_json_definitions.hpp>
#include <ds4/core/processors_definitions.hpp>
#include <ds4/kernels/reference/linear_definitions.hpp>
#include <ds4/text/python_json_definitions.hpp>
#include <ds4/text/tokenizer_definitions.hpp>
