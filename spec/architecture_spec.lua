-- architecture_spec.lua - what the options of a model make of it, each held to the same model
-- written out in plain Lua: logits, gradients, streams against the whole, and what can't be.
-- (That options go through masks, documents, files and checkpoints is layers_spec's.)
local pf = require "performer"
local array = require "spec.support.array"
local plain_model = require "spec.support.plain_model"
require "spec.support"
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

local function ids_of(seed)
  local list = array.random(seed):whole({ LENGTH }, 0, VOCAB - 1)
  return { table.unpack(list) }
end

--- Holds a model to plain Lua; its stream, its slices and its gradient to itself.
local function assert_model(options, name)
  local model, o = made(options)
  local ids = ids_of(4)
  local x = pf.tensor({ ids }, { dtype = "i32" })
  local whole = model(x)
  assert.near_tensor({ plain_model.logits(model, o, ids) }, whole, 1e-5)
  local state = model:state { batch = 1 }
  local parts = { model:prefill(x:slice(2, 1, 3), state) }
  for t = 4, LENGTH do
    parts[#parts + 1] = model:step(x:slice(2, t, t):reshape(1), state):reshape(1, 1, VOCAB)
  end
  assert.near_tensor(whole, pf.concat(parts, 2), 1e-5)
  return model, name
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
    for _, o in ipairs(combined { norm = { "layernorm", "rmsnorm" }, norm_eps = { 0, 0.3 } }) do
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
