/* A host application in C: loads a model folder and continues a text greedily. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ds4/c/ds4.h>

#define MOST 64

static void check(ds4_status status) {
  if (status == DS4_OK) return;
  fprintf(stderr, "%s\n", ds4_error());
  exit(1);
}

int main(int argc, char** argv) {
  const char* const prompt = "She was not";
  ds4_model* model;
  ds4_tokenizer* tokenizer;
  ds4_sampler* sampler;
  ds4_state* state;
  int32_t ids[MOST];
  char text[1024];
  size_t count, length;
  float* logits;
  int i;

  if (argc != 2) {
    fprintf(stderr, "usage: host DIR\n");
    return 2;
  }
  check(ds4_load(argv[1], NULL, &model));
  check(ds4_load_tokenizer(argv[1], &tokenizer));
  check(ds4_new_sampler(0.0f, 1.0f, 0, 0, &sampler)); /* always the likeliest token */
  check(ds4_new_state(model, 0, &state));
  logits = malloc(ds4_vocab_size(model) * sizeof(float));
  if (logits == NULL) return 1;

  ids[0] = ds4_bos_token_id(model);
  check(ds4_encode(tokenizer, prompt, strlen(prompt), ids + 1, MOST - 21, &count));
  ++count;
  check(ds4_prefill(state, ids, count, logits, NULL));
  for (i = 0; i < 20; ++i) {
    check(ds4_sample(sampler, logits, ds4_vocab_size(model), &ids[count]));
    check(ds4_decode(state, ids[count++], logits));
  }
  check(ds4_decode_text(tokenizer, ids, count, 1, text, sizeof(text) - 1, &length));
  printf("%.*s\n", (int)length, text);

  free(logits);
  ds4_free_state(state);
  ds4_free_sampler(sampler);
  ds4_free_tokenizer(tokenizer);
  ds4_free_model(model);
  return 0;
}
