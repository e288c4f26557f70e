// A host application: loads a model folder, continues a text greedily and looks at the logits.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <iostream>
#include <vector>

#include <ds4/decode/sampler.hpp>
#include <ds4/kernels/simd.hpp>
#include <ds4/model.hpp>
#include <ds4/models/austen.hpp>
#include <ds4/text/tokenizer.hpp>

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: ds4_host DIR\n";
    return 2;
  }
  auto model = ds4::Model<ds4::models::austen, ds4::Simd>::load(argv[1]);
  const auto tokenizer = ds4::Tokenizer::load(argv[1]);

  std::vector<std::int32_t> prompt = tokenizer.encode("She was not");
  prompt.insert(prompt.begin(), 0);  // the begin-of-sequence token

  auto state = model.new_state();
  auto logits = model.prefill(state, prompt);
  std::vector<std::int32_t> text = prompt;
  for (int i = 0; i < 20; ++i) {
    text.push_back(ds4::argmax(logits.flat()));
    logits = model.decode(state, text.back());
  }
  std::cout << tokenizer.decode(text, true) << "\n"
            << "largest of the " << logits.size()
            << " next logits: " << std::ranges::max(logits.flat()) << "\n";
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
