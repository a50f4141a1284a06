-- architecture_spec.lua - what the options of a model make of it, each held to the same model
-- written out in plain Lua: logits, gradients, streams against the whole, and what can't be.
-- (That options go through masks, documents, files and checkpoints is layers_spec's.)
local pf = require "performer"
local array = require "spec.support.array"
local plain_model = require "spec.support.plain_model"
local support = require "spec.support"
local nn = pf.nn

local VOCAB, LENGTH = 13, 7

local function with(a, b)
  local o = {}
  for key, value in pairs(a) do o[key] = value end
  for key, value in pairs(b or {}) do o[key] = value end
  return o
end

--- A small model whose numbers that begin at 0 or 1 count, and its options.
local function made(options)
  local o = with({ vocab = VOCAB, dim = 8, layers = 2, heads = 2, causal = true,
                   attention = "exact", length = 16 }, options)
  pf.seed(3)
  local model = nn.performer(o)
  for _, t in pf.sorted(model:tensors()) do t:copy_(t + pf.randn(t:shape()) * 0.2) end
  return model, o
end

--- (B, L) ids.
local function ids_of(batch, length, seed)
  return array.tensor(array.random(seed or 4):whole({ batch, length }, 0, VOCAB - 1))
end

--- Holds a model to plain Lua, its bits to the promises and its stream to the whole.
local function assert_model(options)
  local model, o = made(options)
  local x = ids_of(2, LENGTH)
  local want = {}
  for b, ids in ipairs(x:totable()) do want[b] = plain_model.logits(model, o, ids) end
  assert.near_tensor(want, model(x), 1e-5)
  pf.check.bits(model, x)
  if o.causal then pf.check.streaming(model, x) end
  return model, o
end

--- Gradients by name after `f` has gone backward.
local function gradients(model, f)
  local grads, list, names = {}, model:parameters()
  f()
  for i, p in ipairs(list) do
    grads[names[i]] = assert(p:grad(), names[i]):detach()
    p:clear_grad()
  end
  return grads
end

local function assert_gradients(want, got, tolerance)
  for name, grad in pairs(want) do
    local distance, why = support.distance(got[name], grad)
    assert.is_true(distance and distance <= tolerance, ("%s: %s"):format(name, distance or why))
  end
end

--- Holds the gradient of a model on packed documents to differences, and to itself in slices and
--- run again.
local function assert_trains(options)
  options = with({ attention = "favor", kernel = { features = 8, seed = 2 } }, options)
  local x = ids_of(2, 33, 6)
  local rows, numbers = { input = x:slice(2, 1, 32), target = x:slice(2, 2, 33) }, {}
  for b = 1, 2 do
    numbers[b] = {}
    for t = 1, 32 do numbers[b][t] = (t + 3 * b) // 9 end
  end
  rows.documents = pf.tensor(numbers, { dtype = "i32" })
  local model = made(options)
  local function loss(m)
    return m(rows.input, { documents = rows.documents, training = true, step = 3 })
      :cross_entropy(rows.target)
  end
  local function recorded(m)
    return gradients(m, function()
      local tape <close> = pf.tape()
      tape:backward(loss(m))
    end)
  end
  local want = recorded(model)
  if not options.dropout then -- slices draw masks of their own
    pf.check.gradient(function() return loss(model) end, model, { tolerance = 2e-2 })
    assert_gradients(want, gradients(model, function()
      model:backward_sliced(rows, { slices = 2, step = 3 })
    end), 1e-4)
  end
  local again = recorded((made(with(options, { recompute = true }))))
  for name, grad in pairs(want) do assert.bits_equal(grad, again[name]) end
end

--- Every combination of choices: { name = { values } } as a list of options.
local function combined(choices)
  local list = { {} }
  for key, values in pf.sorted(choices) do
    local longer = {}
    for _, o in ipairs(list) do
      for _, value in ipairs(values) do longer[#longer + 1] = with(o, { [key] = value }) end
    end
    list = longer
  end
  return list
end

describe("rotary positions", function()
  it("turn pairs of channels as rotary_pairs says", function()
    for _, o in ipairs(combined { rotary_pairs = { "halves", "neighbours" }, kv_heads = { 0, 1 },
                                  rotary_base = { 10000, 50 } }) do
      assert_model(o)
    end
    local model = made { rotary_pairs = "neighbours" }
    assert.are.equal("neighbours", model:tree().options.rotary_pairs)
    assert.is_nil(made({ rotary_pairs = "halves" }):tree().options.rotary_pairs)
    assert.raises("halves, neighbours", function() made { rotary_pairs = "pairs" } end)
  end)
end)

describe("norms and biases", function()
  it("have the eps that is asked for", function()
    for _, o in ipairs(combined { norm = { "layernorm", "rmsnorm", "scalenorm" },
                                  norm_eps = { 0, 0.3 } }) do
      assert_model(o)
    end
  end)

  it("stand where each part says, else where bias does", function()
    local parts = { attention_bias = "%.attention%.", mlp_bias = "%.mlp%.", norm_bias = "norm",
                    head_bias = "head" }
    local all = { bias = { true, false } }
    for option in pairs(parts) do all[option] = { true, false } end
    for i, o in ipairs(combined(all)) do
      o.tied = i % 2 == 0
      local tensors = (i % 5 == 0 and assert_model or made)(o):tensors()
      for option, where in pairs(parts) do
        local found = false
        for name in pairs(tensors) do found = found or name:find(where) and name:find "bias$" end
        assert.are.equal(o[option], found ~= nil and found ~= false, option)
      end
    end
    for _, bias in ipairs { true, false } do
      local tensors = made({ bias = bias }):tensors()
      for _, name in ipairs { "norm", "blocks.1.norm1", "blocks.1.mlp.up",
                              "blocks.2.attention.qkv" } do
        assert.are.equal(bias, tensors[name .. ".bias"] ~= nil, name)
      end
      assert.is_nil(tensors.head_bias)
    end
  end)
end)

describe("gates of the mlp", function()
  it("are f(gate(x)) * up(x), with the f of their name", function()
    for _, act in ipairs { "swiglu", "geglu", "geglu_tanh", "reglu", "glu" } do
      local model = assert_model { act = act, bias = true }
      local gate = model:tensors()["blocks.1.mlp.gate.weight"]
      assert.are.same({ 24, 8 }, { table.unpack(gate:shape()) })
      assert_model { act = act, hidden = 5 }
    end
  end)
end)

describe("residuals", function()
  it("train, whole, in slices and run again", function()
    for _, residual in ipairs { "pre", "post", "rezero" } do
      assert_trains { residual = residual, norm = "scalenorm", dropout = 0.1 }
      assert_trains { residual = residual, norm = "layernorm", conv = 3 }
    end
  end)

  it("have their norms before, behind, or a number in their place", function()
    for _, o in ipairs(combined { residual = { "pre", "post", "rezero" }, conv = { 0 },
                                  norm = { "layernorm", "rmsnorm", "scalenorm" },
                                  final_norm = { true, false } }) do
      assert_model(o)
      o.final_norm = nil
      local tensors = assert_model(o):tensors()
      assert.are.equal(o.residual ~= "post", tensors["norm.weight"] ~= nil)
      assert.are.equal(o.residual ~= "rezero", tensors["blocks.1.norm1.weight"] ~= nil)
      assert.are.equal(o.residual == "rezero", tensors["blocks.1.mlp_scale"] ~= nil)
    end
  end)

  it("of rezero begin as nothing", function()
    local model = nn.performer { vocab = 5, dim = 8, heads = 2, layers = 2, residual = "rezero",
                                 positions = "none", final_norm = false }
    local x = pf.tensor({ { 1, 4, 2 } }, { dtype = "i32" })
    local table_ = model:tensors()["embedding.weight"]
    assert.bits_equal(pf.linear(pf.embedding(table_, x), table_), model(x))
  end)

  it("are reversible where inputs can be made again", function()
    assert.raises("child 1 has residual 'post'.*take pre or rezero", function()
      made { residual = "post", reversible = true }
    end)
    assert_trains { residual = "rezero", reversible = true }
    assert_trains { norm = "scalenorm", reversible = true }
  end)
end)

describe("the embedding", function()
  it("has a width and a norm of its own", function()
    for _, o in ipairs(combined { embedding_dim = { 0, 6, 8 }, embedding_norm = { true, false },
                                  positions = { "rotary", "learned", "sinusoidal" },
                                  bias = { true, false } }) do
      local model = assert_model(o)
      local t = model:tensors()
      local width = o.embedding_dim > 0 and o.embedding_dim or 8
      assert.are.equal(width, t["embedding.weight"]:size(2))
      assert.are.equal(o.embedding_dim > 0, t["widen.weight"] ~= nil)
      assert.are.equal(o.embedding_dim > 0 and o.bias, t["widen.bias"] ~= nil)
      assert.are.equal(o.embedding_norm, t["embedding_norm.weight"] ~= nil)
    end
  end)
end)

describe("the head", function()
  it("is the table, a matrix, or BERT's for masked tokens", function()
    for _, o in ipairs(combined { head = { "tied", "linear", "transform" }, tied = { true, false },
                                  embedding_dim = { 0, 6 }, bias = { true, false } }) do
      for _, causal in ipairs { true, false } do
        o.causal = causal
        local t = assert_model(o):tensors()
        local own = o.head == "linear" or o.head == "transform" and not o.tied
        assert.are.equal(own, t["head.weight"] ~= nil)
        assert.are.equal(o.head == "tied" and o.embedding_dim == 6, t["narrow.weight"] ~= nil)
        assert.are.equal(o.head == "transform", (t["head_bias"] or t["head.bias"]) ~= nil)
      end
    end
    for _, act in ipairs { "gelu", "gelu_tanh", "relu", "silu", "square_relu" } do
      assert_model { head = "transform", head_act = act, head_bias = false }
    end
  end)
end)

describe("shared blocks", function()
  it("are one block, whose weights stand once", function()
    for _, residual in ipairs { "pre", "post", "rezero" } do
      local model = assert_model { shared = true, layers = 3, residual = residual, bias = true }
      local one = made { layers = 1, residual = residual, bias = true }
      assert.are.equal(one:count(), model:count())
      assert.are.same({}, (function()
        local more = {}
        for name in pairs(model:tensors()) do
          if not one:tensors()[name] then more[#more + 1] = name end
        end
        return more
      end)())
    end
  end)

  it("train, and are drawn anew once", function()
    for _, o in ipairs { {}, { dropout = 0.1 }, { reversible = true }, { residual = "post" } } do
      assert_trains(with({ shared = true, layers = 3, embedding_dim = 6, embedding_norm = true,
                           head = "transform" }, o))
    end
    local model = made { shared = true, layers = 3, attention = "favor",
                         kernel = { features = 8, seed = 2, redraw = 1 } }
    local opt, x = pf.optim.adamw(model, { lr = 1e-3 }), ids_of(1, LENGTH)
    do
      local tape <close> = pf.tape()
      tape:backward(model(x):cross_entropy(x))
    end
    assert.are.equal(1, select(2, opt:step()))
  end)

  it("remember for each time that they are applied", function()
    local function bytes(options)
      return made(with({ layers = 3, attention = "favor", kernel = { features = 8, seed = 2 } },
        options)):state({ batch = 1 }):bytes()
    end
    assert.are.equal(bytes { shared = false }, bytes { shared = true })
  end)
end)

describe("token shift", function()
  it("takes half of the channels from the position before", function()
    for _, o in ipairs(combined { token_shift = { true }, causal = { true, false },
                                  residual = { "pre", "post" }, dim = { 8, 12 } }) do
      assert_model(o)
    end
    local x = pf.randn(2, 5, 3)
    local y = nn.shift(3)(x)
    assert.bits_equal(x:slice(3, 2, 3), y:slice(3, 2, 3))
    assert.near_tensor(pf.concat({ pf.zeros(2, 1, 1), x:slice(3, 1, 1):slice(2, 1, 4) }, 2),
      y:slice(3, 1, 1), 0) -- -0 is 0
  end)

  it("trains, whole, in slices and run again", function()
    assert_trains { token_shift = true }
    assert_trains { token_shift = true, conv = 3, reversible = true }
  end)
end)

describe("dropout inside attention", function()
  local L, p = 64, 0.25

  --- A layer whose queries and keys are 0, so that all weights are equal, and whose values and
  --- output are its input: from one-hot rows come the weights.
  local function shown(options)
    local layer = nn.attention(with({ dim = L, heads = 1, attention_dropout = p }, options))
    local eye = {}
    for i = 1, L do
      eye[i] = {}
      for j = 1, L do eye[i][j] = i == j and 1 or 0 end
    end
    eye = pf.tensor(eye)
    layer:tensors()["qkv.weight"]:copy_(pf.concat({ pf.zeros(2 * L, L), eye }, 1))
    layer:tensors()["out.weight"]:copy_(eye)
    return layer, pf.concat({ eye:reshape(1, L, L), eye:reshape(1, L, L) }, 1)
  end

  local function count(t)
    local n = 0
    for _, value in ipairs(t:reshape(-1):totable()) do n = n + (value > 0 and 1 or 0) end
    return n
  end

  it("takes weights of exact attention, and scales the others", function()
    local layer, x = shown { attention = "exact" }
    assert.near_tensor(pf.full({ 2, L, L }, 1 / L), layer(x))
    local y = layer(x, { training = true, step = 3 })
    assert.near_tensor(1 / L / (1 - p), y:max():item(), 1e-6)
    assert.is_true(math.abs(count(y) / y:numel() - (1 - p)) < 0.02)
    assert.is_false(y:slice(2, 1, 1):tobytes() == y:slice(2, 2, 2):tobytes())
    assert.bits_equal(y, layer(x, { training = true, step = 3 }))
    assert.is_false(y:tobytes() == layer(x, { training = true, step = 4 }):tobytes())
  end)

  it("takes keys of linear attention, for all queries", function()
    local layer, x = shown { attention = "favor", kernel = { features = 8, seed = 2 } }
    local y = layer(x, { training = true, step = 3 })
    assert.near_tensor(pf.full({ 2, L }, 1), y:sum(3), 1e-5)
    assert.near_tensor(y:slice(2, 1, 1), y:slice(2, 9, 9), 1e-5)
    local kept = { count(y[1][1]), count(y[2][1]) }
    for b = 1, 2 do
      assert.is_true(kept[b] > 0.5 * L and kept[b] < 0.95 * L)
      assert.near_tensor(1 / kept[b], y[b]:max():item(), 1e-5)
    end
    assert.is_false(y[1]:tobytes() == y[2]:tobytes())
  end)

  it("is as the mask says, forward and backward, whole heads of groups and documents", function()
    pf.seed(8)
    local q, k, v = pf.randn(2, 4, 150, 6), pf.randn(2, 2, 150, 6), pf.randn(2, 2, 150, 3)
    local eye = {}
    for i = 1, 150 do
      eye[i] = {}
      for j = 1, 150 do eye[i][j] = i == j and 1 or 0 end
    end
    local ones = pf.zeros(2, 2, 150, 150) + pf.tensor(eye)
    for _, causal in ipairs { true, false } do
      local o = { causal = causal, dropout = 0.4, draw = 7 }
      local weights = pf.exact_attention(q, k, ones, o)
      local all = pf.exact_attention(q, k, ones, { causal = causal })
      local ratio = (weights / (all + 1e-30)):reshape(-1):totable()
      local seen = count(all)
      for i = 1, #ratio, 7 do
        assert.is_true(ratio[i] == 0 or math.abs(ratio[i] - 1 / 0.6) < 1e-5)
      end
      local kept = count(weights)
      assert.is_true(math.abs(kept / seen - 0.6) < 0.01)
      local values = pf.concat({ v:slice(2, 1, 1), v:slice(2, 1, 1), v:slice(2, 2, 2),
                                 v:slice(2, 2, 2) }, 2)
      assert.near_tensor(weights:matmul(values), pf.exact_attention(q, k, v, o), 1e-5)
    end
    local small = { pf.randn(1, 2, 9, 4), pf.randn(1, 1, 9, 4), pf.randn(1, 1, 9, 3) }
    for _, causal in ipairs { true, false } do
      pf.check.gradient(function(a, b, c)
        return pf.exact_attention(a, b, c, { causal = causal, dropout = 0.4, draw = 7 })
      end, small)
    end
    assert.raises("0 <= p < 1", function() pf.exact_attention(q, k, v, { dropout = 1 }) end)
  end)

  it("trains, whole and run again", function()
    for _, attention in ipairs { "exact", "favor" } do
      local kernel = attention == "favor" and { features = 8, seed = 2 } or nil
      assert_trains { attention = attention, kernel = kernel, attention_dropout = 0.2,
                      dropout = 0.1 }
      assert_trains { attention = attention, kernel = kernel, attention_dropout = 0.2,
                      dropout = 0.1, reversible = true }
    end
  end)
end)

describe("axial positions", function()
  it("are rows, or waves, of each axis", function()
    for _, positions in ipairs { "axial", "axial_sinusoidal" } do
      for _, axes in ipairs { { 2, 2, 2 }, { 1, 9 }, { 3, 3 }, { 7 } } do
        for _, embedding_dim in ipairs { 0, 14 } do
          assert_model { positions = positions, axes = axes, embedding_dim = embedding_dim }
        end
      end
      assert_trains { positions = positions, axes = { 4, 4, 2 } }
    end
  end)

  it("have an end, and sizes that are told", function()
    for _, positions in ipairs { "axial", "axial_sinusoidal" } do
      local model = made { positions = positions, axes = { 2, 3 } }
      assert.raises("axes hold 6 positions, 7 are needed", function() model(ids_of(1, 7)) end)
      local state = model:state { batch = 1 }
      model:prefill(ids_of(1, 6), state)
      assert.raises("axes hold 6 positions, 7 are needed", function()
        model:step(ids_of(1, 1):reshape(1), state)
      end)
      for _, axes in ipairs { {}, { 0 }, { 2.5 }, { "two" }, { 4096, 4097 },
                              { 1, 1, 1, 1, 1, 1, 1, 1, 1 } } do
        assert.raises("needs axes, a list", function()
          made { positions = positions, axes = axes }
        end)
      end
      assert.raises("needs axes, a list", function() made { positions = positions } end)
    end
  end)
end)
