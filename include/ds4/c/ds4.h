/* ds4 from C: load a model, take tokens in, read logits. docs/c.md has an example.

   Every function that can fail returns a ds4_status; ds4_error() then has the text, one line, of the
   last failure on the calling thread. No exception leaves the library, and a null pointer where an
   object is needed is DS4_INPUT. V is ds4_vocab_size().

   Threads: calls with one model, or with states of one model, come one at a time: two passes at once
   are an error or, on the reference backend, undefined. Different models are independent of each
   other. Any number of threads may use one tokenizer at the same time; a sampler belongs to one. */
#ifndef DS4_C_DS4_H
#define DS4_C_DS4_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DS4_API __attribute__((visibility("default")))
#else
#define DS4_API
#endif

/* What can be done about a failure; as ds4::ErrorKind. */
typedef enum ds4_status {
  DS4_OK = 0,
  DS4_INPUT = 1,    /* what the caller gave: another input */
  DS4_CONTEXT = 2,  /* more tokens than the context has room for: fewer of them */
  DS4_FILE = 3,     /* a file that is not there, or not what it should be: another file */
  DS4_LOST = 4,     /* a state that a failed pass has left half written: another state */
  DS4_MEMORY = 5,   /* no memory: the same again later */
  DS4_STOPPED = 6,  /* ds4_watch.stop has ended the pass: nothing, it was asked for */
  DS4_INTERNAL = 7  /* a failure that ds4 does not know: a bug */
} ds4_status;

typedef struct ds4_model ds4_model;         /* a model on a backend, its files mapped */
typedef struct ds4_state ds4_state;         /* what one sequence keeps between passes */
typedef struct ds4_tokenizer ds4_tokenizer; /* between text and token ids */
typedef struct ds4_sampler ds4_sampler;     /* draws tokens from logits */

/* "0.1.0", of the library that runs. */
DS4_API const char* ds4_version(void);
/* The text of the last failure on this thread, "" before any; valid until the next one. */
DS4_API const char* ds4_error(void);

/* How a model runs: begin with DS4_OPTIONS, so that members that later versions add have a value. */
typedef struct ds4_options {
  size_t size;           /* of this structure */
  const char* backend;   /* "simd" or "reference" */
  size_t threads;        /* 0: one for each core that the process may use */
  int exact;             /* activations and states in float32 throughout */
  double memory_budget;  /* GB of weights to keep in memory; negative: all or none */
} ds4_options;
#define DS4_OPTIONS {sizeof(ds4_options), "simd", 0, 0, -1.0}

/* Loads a checkpoint folder; with null, the options are DS4_OPTIONS. The configuration is one that is
   compiled into the library, or one that `ds4 add` has compiled. */
DS4_API ds4_status ds4_load(const char* folder, const ds4_options* options, ds4_model** model);
/* States keep their model alive. All ds4_free_... take null. */
DS4_API void ds4_free_model(ds4_model* model);
/* Of the configuration; 0, and a bos of -1, for null and where it states none. */
DS4_API size_t ds4_vocab_size(const ds4_model* model);
DS4_API size_t ds4_max_position_embeddings(const ds4_model* model);
DS4_API int32_t ds4_bos_token_id(const ds4_model* model);
/* Whether a token ends a text. */
DS4_API int ds4_is_eos(const ds4_model* model, int32_t id);

/* The state of an empty sequence, which can take back its last `rollback_limit` tokens. */
DS4_API ds4_status ds4_new_state(ds4_model* model, size_t rollback_limit, ds4_state** state);
/* A second sequence with the same past. */
DS4_API ds4_status ds4_fork(const ds4_state* state, ds4_state** fork);
DS4_API void ds4_free_state(ds4_state* state);
/* Tokens that are taken in; 0 for null. */
DS4_API size_t ds4_position(const ds4_state* state);
/* Takes back the last tokens: what follows is what would have followed without them. */
DS4_API ds4_status ds4_rollback(ds4_state* state, size_t tokens);
/* Writes a state with the ids of its sequence to a file, and reads it in any process: *count is how
   many ids the file has, of which `capacity` are written to ids. */
DS4_API ds4_status ds4_save(const ds4_state* state, const int32_t* ids, size_t count,
                            const char* file);
DS4_API ds4_status ds4_restore(ds4_model* model, const char* file, ds4_state** state, int32_t* ids,
                               size_t capacity, size_t* count);

/* What is called during a pass, from one thread; null members are not. */
typedef struct ds4_watch {
  void* user; /* handed on */
  /* Each stage's result, row by row, e.g. "attn.q_rope" [S, H, d]; valid during the call. Layers
     beyond the last are what comes behind them. */
  void (*values)(void* user, size_t layer, const char* stage, const float* values, size_t count);
  void (*indices)(void* user, size_t layer, const char* stage, const int32_t* indices,
                  size_t count);
  /* Nonzero ends the pass soon, with DS4_STOPPED; the state is as before. */
  int (*stop)(void* user);
} ds4_watch;

/* Takes in tokens, at least one; logits [V] of the last one. watch may be null. */
DS4_API ds4_status ds4_prefill(ds4_state* state, const int32_t* ids, size_t count, float* logits,
                               const ds4_watch* watch);
/* Takes in one token; its logits [V]. */
DS4_API ds4_status ds4_decode(ds4_state* state, int32_t id, float* logits);

/* A sequence of a batch. */
typedef struct ds4_sequence {
  ds4_state* state; /* another one in each */
  const int32_t* ids;
  size_t count; /* at least one */
} ds4_sequence;
/* Several sequences of one model in one pass; logits [tokens, V] of every token, sequence after
   sequence. */
DS4_API ds4_status ds4_forward(const ds4_sequence* batch, size_t count, float* logits,
                               const ds4_watch* watch);

/* From now on the state keeps what the checkpoint's drafter needs; a draft has `length` tokens, or
   with 0 as many as pay. DS4_INPUT for a checkpoint without a drafter. */
DS4_API ds4_status ds4_keep_drafts(ds4_state* state, size_t length);
/* Takes in a token and what the drafter has guessed to follow, in one pass: the tokens that follow,
   at least one and at most `capacity`. The last of them is not taken in yet. */
DS4_API ds4_status ds4_decode_with_drafts(ds4_state* state, int32_t id, ds4_sampler* sampler,
                                          int32_t* ids, size_t capacity, size_t* count);

/* The tokenizer of a checkpoint folder, or of a tokenizer.json. */
DS4_API ds4_status ds4_load_tokenizer(const char* folder, ds4_tokenizer** tokenizer);
DS4_API void ds4_free_tokenizer(ds4_tokenizer* tokenizer);
/* The ids of a text of `length` bytes, whose special tokens count as such. *count is their number, of
   which `capacity` are written. */
DS4_API ds4_status ds4_encode(const ds4_tokenizer* tokenizer, const char* text, size_t length,
                              int32_t* ids, size_t capacity, size_t* count);
/* The text of ids, UTF-8. *length is its bytes, of which `capacity` are written. */
DS4_API ds4_status ds4_decode_text(const ds4_tokenizer* tokenizer, const int32_t* ids, size_t count,
                                   int skip_special, char* text, size_t capacity, size_t* length);

/* How tokens are drawn: softmax(logits / temperature), 0 the likeliest; the fewest whose probability
   reaches top_p; the likeliest top_k, 0 all. */
DS4_API ds4_status ds4_new_sampler(float temperature, float top_p, int32_t top_k, uint64_t seed,
                                   ds4_sampler** sampler);
DS4_API void ds4_free_sampler(ds4_sampler* sampler);
/* The next token for logits [count]. */
DS4_API ds4_status ds4_sample(ds4_sampler* sampler, const float* logits, size_t count, int32_t* id);

#ifdef __cplusplus
}
#endif

#endif
