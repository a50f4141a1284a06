-- performer/schemes.lua: how other programs name their tensors, and what their config.json says,
-- as rows: options(config, tensors) are those of nn.performer, map(source, model) the tensors of
-- such a model. A new scheme is a row.
--
-- What the engine has in one piece is put together here (q, k and v are one matrix), what it has
-- no place for is folded into what it has (the one token type into positions), and rows of q and k
-- whose channels turn with their neighbour are put into the order in which they turn with d/2.
local core = require "performer.core"
local util = require "performer.util"

local schemes = {}

-- ---- words that maps are made of ----

--- Rows of q or k whose channels turn with their neighbour, in the order in which i turns with
--- i + d/2: of every head the even ones, then the odd ones.
local function halves(t, heads)
  local rows, columns = t:size(1), t:size(2)
  local pairs_of_head = rows // heads // 2
  return t:reshape(heads, pairs_of_head, 2, columns):permute(1, 3, 2, 4):reshape(rows, columns)
end

--- All of a list one after the other, or nil where one is not there.
local function joined(...)
  local parts = table.pack(...)
  for i = 1, parts.n do
    if not parts[i] then return nil end
  end
  return core.op.concat(parts, 1)
end

--- Copies pairs of names, { ["model's"] = "source's" }, with what stands before both.
local function rename(made, source, names, to, from)
  for own, other in pairs(names) do made[to .. own] = source[from .. other] end
end

--- Weight and bias of layers, { ["model's layer"] = "source's layer" }; norms of old files call
--- them gamma and beta.
local function rename_layers(made, source, layers, to, from)
  for own, other in pairs(layers) do
    for part, old in pairs { [".weight"] = ".gamma", [".bias"] = ".beta" } do
      made[to .. own .. part] = source[from .. other .. part] or source[from .. other .. old]
    end
  end
end

--- How many layers there are: "before.0.mark", "before.1.mark" ...
local function count(source, before, mark)
  local n = 0
  while source[before .. n .. mark] do n = n + 1 end
  return n
end

--- Looks at what a model here has no place for, so that nobody wonders about it.
local function pass_over(source, names)
  for _, name in ipairs(names) do local _ = source[name] end
end

--- The first of some keys that a config has.
local function first_of(config, ...)
  for _, key in ipairs { ... } do
    local value = config[key]
    if value ~= nil and value ~= core.json.null then return value end
  end
end

--- A sentence where a config has another value than the one that layers here know, or nil.
local function unknown_kind(config, key, known)
  local value = first_of(config, key)
  if value == nil or value == known then return nil end
  return ("its %s is %s, and no layer here has another than %s"):format(key, tostring(value),
    tostring(known))
end

--- nil and a sentence for a config that lacks sizes without which there is no model.
local function lacking(made, names)
  for own, other in util.sorted(names) do
    if made[own] == nil then
      return nil, ("the config says no '%s', which is needed for %s"):format(other, own)
    end
  end
  return made
end

--- A norm's eps, where it is not the norm's own.
local function eps_of(eps, own) return eps ~= own and eps or nil end

-- What others call activations.
local ACTS = { gelu = "gelu", gelu_new = "gelu_tanh", gelu_pytorch_tanh = "gelu_tanh",
               gelu_fast = "gelu_tanh", relu = "relu", silu = "silu", swish = "silu" }

local function act_of(made, word)
  made.act = ACTS[word]
  if made.act then return made end
  return nil, ("its activation is '%s', which no layer here has"):format(tostring(word))
end

local function same_bits(a, b)
  return a and b and a:tobytes() == b:tobytes()
end

-- ---- llama2.c ----

local llama2c = { name = "llama2c", marks = { "tok_embeddings.weight" },
                  doc = "llama2.c: RMS norms, rotary neighbours, grouped keys, SwiGLU" }

function llama2c.options(config, source)
  return lacking({
    vocab = config.vocab_size, dim = config.dim, layers = config.n_layers, heads = config.n_heads,
    kv_heads = config.n_kv_heads, hidden = config.hidden_dim, length = config.max_seq_len,
    act = "swiglu", norm = "rmsnorm", norm_eps = eps_of(config.norm_eps or 1e-5, 1e-6),
    positions = "rotary",
    rotary_base = config.rope_theta, bias = false, tied = not source["output.weight"],
    causal = true, attention = "exact",
  }, { vocab = "vocab_size", dim = "dim", layers = "n_layers", heads = "n_heads",
       hidden = "hidden_dim" })
end

function llama2c.map(source, model)
  local made, o = {}, model:options()
  local kv_heads = (o.kv_heads or 0) > 0 and o.kv_heads or o.heads
  local function turned(t, heads)
    return t and o.rotary_pairs ~= "neighbours" and halves(t, heads) or t
  end
  rename(made, source, { ["embedding.weight"] = "tok_embeddings.weight",
    ["norm.weight"] = "norm.weight", ["head.weight"] = "output.weight" }, "", "")
  for i = 1, count(source, "layers.", ".attention_norm.weight") do
    local to, from = ("blocks.%d."):format(i), ("layers.%d."):format(i - 1)
    rename(made, source, {
      ["norm1.weight"] = "attention_norm.weight", ["norm2.weight"] = "ffn_norm.weight",
      ["attention.out.weight"] = "attention.wo.weight",
      ["mlp.gate.weight"] = "feed_forward.w1.weight",
      ["mlp.down.weight"] = "feed_forward.w2.weight",
      ["mlp.up.weight"] = "feed_forward.w3.weight",
    }, to, from)
    made[to .. "attention.qkv.weight"] = joined(
      turned(source[from .. "attention.wq.weight"], o.heads),
      turned(source[from .. "attention.wk.weight"], kv_heads),
      source[from .. "attention.wv.weight"])
  end
  return made
end

-- ---- GPT-2 ----

local gpt2 = { name = "gpt2", marks = { "transformer.wte.weight", "wte.weight" },
               doc = "GPT-2 of Hugging Face (matrices transposed) and minGPT" }

local function gpt2_prefix(source)
  return source["transformer.wte.weight"] and "transformer." or ""
end

function gpt2.options(config, source)
  local other = unknown_kind(config, "scale_attn_by_inverse_layer_idx", false)
    or unknown_kind(config, "scale_attn_weights", true)
  if other then return nil, other end
  local head, table_of = source["lm_head.weight"], source[gpt2_prefix(source) .. "wte.weight"]
  local made, why = act_of({
    vocab = config.vocab_size, dim = config.n_embd, layers = config.n_layer, heads = config.n_head,
    hidden = first_of(config, "n_inner"), bias = true, positions = "learned",
    length = first_of(config, "block_size", "n_positions", "n_ctx"),
    norm_eps = eps_of(config.layer_norm_epsilon or 1e-5, 1e-5),
    tied = not head or same_bits(head, table_of),
    causal = true, attention = "exact",
  }, config.activation_function or "gelu_new")
  if not made then return nil, why end
  return lacking(made, { vocab = "vocab_size", dim = "n_embd", layers = "n_layer",
                         heads = "n_head", length = "n_positions" })
end

--- Conv1D of Hugging Face holds (in, out): told by the matrix of q, k and v, which is no square.
local function transposes(source, from)
  local qkv = source[from .. "attn.c_attn.weight"]
  return qkv and qkv:rank() == 2 and qkv:size(2) == 3 * qkv:size(1)
end

function gpt2.map(source, model)
  local made, before = {}, gpt2_prefix(source)
  local head = source["lm_head.weight"] -- looked at either way: a tied one is known
  made["head.weight"] = model:tensors()["head.weight"] and head
  rename(made, source, { ["embedding.weight"] = "wte.weight", ["positions.weight"] = "wpe.weight" },
    "", before)
  rename_layers(made, source, { norm = "ln_f" }, "", before)
  for i = 1, count(source, before .. "h.", ".ln_1.weight") do
    local to, from = ("blocks.%d."):format(i), ("%sh.%d."):format(before, i - 1)
    rename_layers(made, source, { norm1 = "ln_1", norm2 = "ln_2", ["attention.qkv"] = "attn.c_attn",
      ["attention.out"] = "attn.c_proj", ["mlp.up"] = "mlp.c_fc", ["mlp.down"] = "mlp.c_proj" },
      to, from)
    for _, name in ipairs(transposes(source, from) and { "attention.qkv", "attention.out",
      "mlp.up", "mlp.down" } or {}) do
      local key = to .. name .. ".weight"
      made[key] = made[key] and made[key]:transpose(1, 2)
    end
    pass_over(source, { from .. "attn.bias", from .. "attn.masked_bias" }) -- the causal mask
  end
  return made
end

-- ---- BERT and ALBERT ----

--- What both say; ALBERT shares its one layer and has narrower embeddings.
local function bert_options(config, more)
  local other = unknown_kind(config, "position_embedding_type", "absolute")
  if other then return nil, other end
  local made, why = act_of({
    vocab = config.vocab_size, dim = config.hidden_size, layers = config.num_hidden_layers,
    heads = config.num_attention_heads, hidden = config.intermediate_size, bias = true,
    length = config.max_position_embeddings, positions = "learned", residual = "post",
    norm_eps = eps_of(config.layer_norm_eps or 1e-12, 1e-5), embedding_norm = true,
    head = "transform",
    causal = false, attention = "exact", tied = same_bits(more.decoder, more.table)
      or not more.decoder, embedding_dim = more.embedding_dim, shared = more.shared,
  }, config.hidden_act or "gelu")
  if not made then return nil, why end
  made.head_act = made.act
  return lacking(made, { vocab = "vocab_size", dim = "hidden_size", layers = "num_hidden_layers",
    heads = "num_attention_heads", hidden = "intermediate_size",
    length = "max_position_embeddings" })
end

--- Table, positions with the row of token type 0, and their norm.
local function bert_embeddings(made, source, from)
  made["embedding.weight"] = source[from .. "word_embeddings.weight"]
  local positions = source[from .. "position_embeddings.weight"]
  local types = source[from .. "token_type_embeddings.weight"]
  made["positions.weight"] = positions and types and positions + types:slice(1, 1, 1) or positions
  rename_layers(made, source, { embedding_norm = "LayerNorm" }, "", from)
  pass_over(source, { from .. "position_ids" })
end

--- q, k and v of a layer as one.
local function bert_qkv(made, source, to, from)
  for _, part in ipairs { "weight", "bias" } do
    made[to .. "attention.qkv." .. part] = joined(source[from .. "query." .. part],
      source[from .. "key." .. part], source[from .. "value." .. part])
  end
end

--- The head's decoder: its table where it has one of its own.
local function bert_decoder(made, source, model, from)
  local own = model:tensors()["head.weight"]
  local decoder = source[from .. "decoder.weight"]
  local bias, other = source[from .. "bias"], source[from .. "decoder.bias"]
  made["head_bias"] = bias or other
  made["head.weight"] = own and decoder or nil
end

local bert = { name = "bert", marks = { "bert.embeddings.word_embeddings.weight" },
               doc = "BertForMaskedLM of Hugging Face, for one token type" }

function bert.options(config, source)
  return bert_options(config, {
    table = source["bert.embeddings.word_embeddings.weight"],
    decoder = source["cls.predictions.decoder.weight"] })
end

function bert.map(source, model)
  local made = {}
  bert_embeddings(made, source, "bert.embeddings.")
  for i = 1, count(source, "bert.encoder.layer.", ".output.dense.weight") do
    local to, from = ("blocks.%d."):format(i), ("bert.encoder.layer.%d."):format(i - 1)
    rename_layers(made, source, { norm1 = "attention.output.LayerNorm", norm2 = "output.LayerNorm",
      ["attention.out"] = "attention.output.dense", ["mlp.up"] = "intermediate.dense",
      ["mlp.down"] = "output.dense" }, to, from)
    bert_qkv(made, source, to, from .. "attention.self.")
  end
  rename_layers(made, source, { transform = "dense", transform_norm = "LayerNorm" }, "",
    "cls.predictions.transform.")
  bert_decoder(made, source, model, "cls.predictions.")
  pass_over(source, { "bert.pooler.dense.weight", "bert.pooler.dense.bias",
                      "cls.seq_relationship.weight", "cls.seq_relationship.bias" })
  return made
end

local albert = { name = "albert", marks = { "albert.embeddings.word_embeddings.weight" },
                 doc = "AlbertForMaskedLM of Hugging Face, one group of layers, one token type" }

local ALBERT_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0."

function albert.options(config, source)
  for _, key in ipairs { "num_hidden_groups", "inner_group_num" } do
    if (config[key] or 1) ~= 1 then
      return nil, ("its %s is %s; layers are shared by all or by none here"):format(key,
        tostring(config[key]))
    end
  end
  return bert_options(config, { shared = true, embedding_dim = config.embedding_size,
    table = source["albert.embeddings.word_embeddings.weight"],
    decoder = source["predictions.decoder.weight"] })
end

function albert.map(source, model)
  local made, to = {}, "blocks.1."
  bert_embeddings(made, source, "albert.embeddings.")
  rename_layers(made, source, { widen = "embedding_hidden_mapping_in" }, "", "albert.encoder.")
  rename_layers(made, source, { norm1 = "attention.LayerNorm", norm2 = "full_layer_layer_norm",
    ["attention.out"] = "attention.dense", ["mlp.up"] = "ffn", ["mlp.down"] = "ffn_output" },
    to, ALBERT_LAYER)
  bert_qkv(made, source, to, ALBERT_LAYER .. "attention.")
  rename_layers(made, source, { transform = "dense", transform_norm = "LayerNorm" }, "",
    "predictions.")
  bert_decoder(made, source, model, "predictions.")
  pass_over(source, { "albert.pooler.weight", "albert.pooler.bias" })
  return made
end

-- ---- the rows ----

local ROWS = { llama2c, gpt2, bert, albert }

--- Their names, in order.
function schemes.names()
  local names = {}
  for i, row in ipairs(ROWS) do names[i] = row.name end
  return names
end

--- The row of that name; raises, with the nearest one.
function schemes.find(name)
  for _, row in ipairs(ROWS) do
    if row.name == name then return row end
  end
  local near = core.nearest(tostring(name), schemes.names())
  util.fail("weights: there is no scheme '%s'%s; there are %s", tostring(name),
    near and (" (did you mean '%s'?)"):format(near) or "",
    table.concat(schemes.names(), ", "))
end

--- The row whose names these tensors have, or nil.
function schemes.of(tensors)
  for _, row in ipairs(ROWS) do
    for _, mark in ipairs(row.marks) do
      if tensors[mark] then return row end
    end
  end
end

return schemes
