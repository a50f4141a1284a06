-- support/foreign.lua - tiny models of other programs: their config, tensors under their names
-- with made-up numbers, and what they compute, in double precision straight from those names.
-- `require "spec.support.foreign"`.
local array = require "spec.support.array"
local oracle = require "spec.support.oracle"
local pf = require "performer"
local support = require "spec.support"

local foreign = {}

-- ---- parts ----

local function linear(w, x, name, act)
  return oracle.linear({ x = x, weight = w[name .. ".weight"], bias = w[name .. ".bias"] },
                       { act = act })[1]
end

local function layernorm(w, x, name, eps)
  return oracle.layernorm({ x = x, weight = w[name .. ".weight"], bias = w[name .. ".bias"] },
                          { eps = eps })[1]
end

local function rmsnorm(w, x, name)
  return oracle.rmsnorm({ x = x, weight = w[name .. ".weight"] }, { eps = 1e-5 })[1]
end

local function sum(a, b) return array.new(a.shape, function(i) return a[i] + b[i] end) end

--- x (B, L, D) and a table's first L rows.
local function with_rows(x, rows)
  local n = x.shape[2] * x.shape[3]
  return array.new(x.shape, function(i) return x[i] + rows[(i - 1) % n + 1] end)
end

--- (B, L, H d) -> (B, H, L, d), each head `times` times.
local function heads_of(x, heads, times)
  local B, L, d = x.shape[1], x.shape[2], x.shape[3] // heads
  local H = heads * (times or 1)
  return array.new({ B, H, L, d }, function(i)
    local row, c = (i - 1) // d, (i - 1) % d
    local b, h, l = row // (H * L), row // L % H // (times or 1), row % L
    return x[((b * L + l) * heads + h) * d + c + 1]
  end)
end

--- Exact attention of q, k, v (B, H, L, d), heads side by side again: (B, L, H d).
local function attend(q, k, v, causal)
  local y = oracle.exact_attention({ q = q, k = k, v = v }, { causal = causal })[1]
  local B, H, L, d = table.unpack(y.shape)
  y = oracle.permute({ x = y }, { order = { 1, 3, 2, 4 } })[1]
  return oracle.reshape({ x = y }, { shape = { B, L, H * d } })[1]
end

local function embed(table_of, ids) return oracle.embedding { table = table_of, ids = ids }[1] end

-- ---- llama2.c ----

local llama2c = { config = { model_type = "llama", dim = 8, hidden_dim = 12, n_layers = 2,
  n_heads = 4, n_kv_heads = 2, vocab_size = 11, max_seq_len = 16, norm_eps = 1e-5,
  rope_theta = 100 } }

function llama2c.shapes(c)
  local D, kv = c.dim, c.dim // c.n_heads * c.n_kv_heads
  local shapes = { ["tok_embeddings.weight"] = { c.vocab_size, D }, ["norm.weight"] = { D } }
  for i = 0, c.n_layers - 1 do
    for name, shape in pairs {
      attention_norm = { D }, ffn_norm = { D }, ["attention.wq"] = { D, D },
      ["attention.wk"] = { kv, D }, ["attention.wv"] = { kv, D }, ["attention.wo"] = { D, D },
      ["feed_forward.w1"] = { c.hidden_dim, D }, ["feed_forward.w3"] = { c.hidden_dim, D },
      ["feed_forward.w2"] = { D, c.hidden_dim } } do
      shapes[("layers.%d.%s.weight"):format(i, name)] = shape
    end
  end
  return shapes
end

local function turned(x, base)
  return oracle.rotary({ x = x }, { base = base, halves = false })[1]
end

function llama2c.forward(c, w, ids)
  local x, group = embed(w["tok_embeddings.weight"], ids), c.n_heads // c.n_kv_heads
  for i = 0, c.n_layers - 1 do
    local at = ("layers.%d."):format(i)
    local n = rmsnorm(w, x, at .. "attention_norm")
    local q = turned(heads_of(linear(w, n, at .. "attention.wq"), c.n_heads), c.rope_theta)
    local k = turned(heads_of(linear(w, n, at .. "attention.wk"), c.n_kv_heads, group),
                     c.rope_theta)
    local v = heads_of(linear(w, n, at .. "attention.wv"), c.n_kv_heads, group)
    x = sum(x, linear(w, attend(q, k, v, true), at .. "attention.wo"))
    n = rmsnorm(w, x, at .. "ffn_norm")
    local hidden = oracle.swiglu { gate = linear(w, n, at .. "feed_forward.w1"),
                                   value = linear(w, n, at .. "feed_forward.w3") }[1]
    x = sum(x, linear(w, hidden, at .. "feed_forward.w2"))
  end
  return oracle.linear({ x = rmsnorm(w, x, "norm"), weight = w["tok_embeddings.weight"] }, {})[1]
end

-- ---- GPT-2, as minGPT has it ----

local gpt2 = { config = { model_type = "gpt2", n_layer = 2, n_head = 2, n_embd = 8,
                          vocab_size = 7, block_size = 9 } }

function gpt2.shapes(c)
  local D, shapes = c.n_embd, {}
  local function layer(name, to, from)
    shapes[name .. ".weight"], shapes[name .. ".bias"] = { to, from }, { to }
  end
  shapes["transformer.wte.weight"], shapes["transformer.wpe.weight"] =
    { c.vocab_size, D }, { c.block_size, D }
  shapes["lm_head.weight"] = { c.vocab_size, D }
  layer("transformer.ln_f", D)
  for i = 0, c.n_layer - 1 do
    local at = ("transformer.h.%d."):format(i)
    layer(at .. "ln_1", D)
    layer(at .. "ln_2", D)
    layer(at .. "attn.c_attn", 3 * D, D)
    layer(at .. "attn.c_proj", D, D)
    layer(at .. "mlp.c_fc", 4 * D, D)
    layer(at .. "mlp.c_proj", D, 4 * D)
    shapes[at .. "attn.bias"] = { 1, 1, c.block_size, c.block_size }
  end
  return shapes
end

function gpt2.forward(c, w, ids)
  local x = with_rows(embed(w["transformer.wte.weight"], ids), w["transformer.wpe.weight"])
  for i = 0, c.n_layer - 1 do
    local at = ("transformer.h.%d."):format(i)
    local qkv = linear(w, layernorm(w, x, at .. "ln_1", 1e-5), at .. "attn.c_attn")
    local q, k, v = table.unpack(oracle.split_heads({ x = qkv }, { heads = c.n_head }))
    x = sum(x, linear(w, attend(q, k, v, true), at .. "attn.c_proj"))
    local n = layernorm(w, x, at .. "ln_2", 1e-5)
    x = sum(x, linear(w, linear(w, n, at .. "mlp.c_fc", "gelu_tanh"), at .. "mlp.c_proj"))
  end
  return linear(w, layernorm(w, x, "transformer.ln_f", 1e-5), "lm_head")
end

-- ---- BERT and ALBERT ----

--- Where each has its parts: the tensors of layer i, the embeddings, the head.
local NAMES = {
  bert = { embeddings = "bert.embeddings.", head = "cls.predictions.transform.",
    bias = "cls.predictions.bias",
    layer = function(i) return ("bert.encoder.layer.%d."):format(i) end,
    self = "attention.self.", out = "attention.output.dense", norm1 = "attention.output.LayerNorm",
    up = "intermediate.dense", down = "output.dense", norm2 = "output.LayerNorm" },
  albert = { embeddings = "albert.embeddings.", head = "predictions.", bias = "predictions.bias",
    layer = function() return "albert.encoder.albert_layer_groups.0.albert_layers.0." end,
    self = "attention.", out = "attention.dense", norm1 = "attention.LayerNorm", up = "ffn",
    down = "ffn_output", norm2 = "full_layer_layer_norm",
    widen = "albert.encoder.embedding_hidden_mapping_in" },
}

local function bert_shapes(names)
  return function(c)
    local D, E, shapes = c.hidden_size, c.embedding_size or c.hidden_size, {}
    local function layer(name, to, from)
      shapes[name .. ".weight"], shapes[name .. ".bias"] = { to, from }, { to }
    end
    for name, rows in pairs { word = c.vocab_size, position = c.max_position_embeddings,
                              token_type = 2 } do
      shapes[names.embeddings .. name .. "_embeddings.weight"] = { rows, E }
    end
    layer(names.embeddings .. "LayerNorm", E)
    layer(names.head .. "dense", E, D)
    layer(names.head .. "LayerNorm", E)
    shapes[names.bias] = { c.vocab_size }
    if names.widen then layer(names.widen, D, E) end
    for i = 0, c.num_hidden_layers - 1 do
      local at = names.layer(i)
      for _, part in ipairs { "query", "key", "value" } do layer(at .. names.self .. part, D, D) end
      layer(at .. names.out, D, D)
      layer(at .. names.norm1, D)
      layer(at .. names.up, c.intermediate_size, D)
      layer(at .. names.down, D, c.intermediate_size)
      layer(at .. names.norm2, D)
    end
    return shapes
  end
end

local function bert_forward(names)
  return function(c, w, ids)
    local eps, table_of = c.layer_norm_eps, w[names.embeddings .. "word_embeddings.weight"]
    local x = with_rows(embed(table_of, ids), w[names.embeddings .. "position_embeddings.weight"])
    local kind, E = w[names.embeddings .. "token_type_embeddings.weight"], x.shape[3]
    x = array.new(x.shape, function(i) return x[i] + kind[(i - 1) % E + 1] end)
    x = layernorm(w, x, names.embeddings .. "LayerNorm", eps)
    if names.widen then x = linear(w, x, names.widen) end
    for i = 0, c.num_hidden_layers - 1 do
      local at, side = names.layer(i), {}
      for s, part in ipairs { "query", "key", "value" } do
        side[s] = heads_of(linear(w, x, at .. names.self .. part), c.num_attention_heads)
      end
      local y = linear(w, attend(side[1], side[2], side[3], false), at .. names.out)
      x = layernorm(w, sum(x, y), at .. names.norm1, eps)
      y = linear(w, linear(w, x, at .. names.up, "gelu"), at .. names.down)
      x = layernorm(w, sum(x, y), at .. names.norm2, eps)
    end
    x = layernorm(w, linear(w, x, names.head .. "dense", "gelu"), names.head .. "LayerNorm", eps)
    return oracle.linear({ x = x, weight = table_of, bias = w[names.bias] }, {})[1]
  end
end

local function bert_config(more)
  local c = { hidden_size = 8, num_hidden_layers = 2, num_attention_heads = 2,
    intermediate_size = 12, hidden_act = "gelu", vocab_size = 9, max_position_embeddings = 10,
    layer_norm_eps = 1e-12, type_vocab_size = 2 }
  for key, value in pairs(more) do c[key] = value end
  return c
end

local bert = { config = bert_config { model_type = "bert" }, shapes = bert_shapes(NAMES.bert),
               forward = bert_forward(NAMES.bert) }
local albert = { config = bert_config { model_type = "albert", embedding_size = 6 },
                 shapes = bert_shapes(NAMES.albert), forward = bert_forward(NAMES.albert) }

foreign.models = { llama2c = llama2c, gpt2 = gpt2, bert = bert, albert = albert }

-- ---- made-up ones ----

--- The arrays of a model, { name = array }: norms around 1, all else around 0.
function foreign.numbers(model, seed)
  local w, shapes = {}, model.shapes(model.config)
  local names = {}
  for name in pairs(shapes) do names[#names + 1] = name end
  table.sort(names)
  local random = array.random(seed)
  for _, name in ipairs(names) do
    local middle = #shapes[name] == 1 and name:find "weight" and 1 or 0 -- a norm's
    w[name] = array.fill(shapes[name], function() return middle + 0.3 * random:normal() end)
  end
  return w
end

--- Writes a folder with config.json and model.safetensors; extra: { name = tensor } over them.
function foreign.write(folder, config, numbers, extra)
  local tensors = {}
  for name, a in pairs(numbers) do tensors[name] = array.tensor(a) end
  for name, t in pairs(extra or {}) do tensors[name] = t end
  assert(pf.save(folder .. "/model.safetensors", tensors))
  support.write(folder .. "/config.json", pf.json.encode(config))
end

--- A vocabulary of llama2.c as bytes: the ids that every one has, then pieces with their scores,
--- { { "ab", -1 }, ... }.
function foreign.vocabulary(pieces)
  local parts = { string.pack("<i4", 16) }
  local function add(piece, score)
    parts[#parts + 1] = string.pack("<fi4", score, #piece) .. piece
  end
  add("<unk>", 0)
  add("\n<s>\n", 0)
  add("\n</s>\n", 0)
  for i = 0, 255 do add(("<0x%02X>"):format(i), 0) end
  for _, p in ipairs(pieces) do add(p[1], p[2]) end
  return table.concat(parts)
end

return foreign
