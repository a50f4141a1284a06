-- trainable_spec.lua - what of a model is trained: what is frozen takes no gradient and stays,
-- adapters compute what they say, and both survive files, streams, slices and recomputation.
local array = require "spec.support.array"
local layers = require "spec.support.layers"
local oracle = require "spec.support.oracle"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local ids = pf.tensor({ { 3, 1, 4, 1, 5, 2, 6, 5, 3, 5 }, { 2, 7, 1, 8, 2, 8, 1, 8, 2, 8 } },
                      { dtype = "i32" })

local function model_of(more)
  pf.seed(7)
  local options = { vocab = 9, dim = 8, layers = 2, heads = 2, causal = true, length = 32,
                    kernel = { features = 8, seed = 3 } }
  for key, value in pairs(more or {}) do options[key] = value end
  return nn.performer(options)
end

--- Adapters that do something: B begins at 0.
local function stir(model)
  for name, tensor in pf.sorted(model:tensors()) do
    if name:find "adapter%.b$" then tensor:copy_(pf.randn(tensor:shape()) * 0.3) end
  end
  return model
end

local function adapted(more, options)
  local model = model_of(more)
  model:adapt(options or { rank = 3, scale = 0.5 })
  return stir(model)
end

--- The gradients of a loss, by name.
local function gradients(model, slices)
  local target = pf.concat({ ids:slice(2, 2, 10), ids:slice(2, 1, 1) }, 2)
  if slices then
    model:backward_sliced({ input = ids, target = target }, { slices = slices })
  else
    local tape <close> = pf.tape()
    tape:backward(model(ids):cross_entropy(target))
  end
  local list = {}
  for name, tensor in pairs(model:tensors()) do
    local grad = tensor:grad()
    list[name] = grad and grad:detach()
  end
  model:clear_grad()
  return list
end

local function is_adapter(name) return name:find "adapter" ~= nil end

--- Bytes of the tensors whose names `which` holds for.
local function bytes_of(model, which)
  local all = {}
  for name, tensor in pf.sorted(model:tensors()) do
    if which(name) then all[#all + 1] = name .. tensor:tobytes() end
  end
  return table.concat(all)
end

--- Some steps of training; opt goes on where it is.
local function train(model, opt, steps)
  for _ = 1, steps do
    gradients(model)
    local tape <close> = pf.tape()
    tape:backward(model(ids):cross_entropy(ids))
    opt:step { lr = 0.02 }
  end
end

describe("freezing", function()
  it("takes names by patterns, and counts", function()
    local model = model_of()
    local trained = model:count()
    assert.are.equal(1, model:freeze "embedding")
    assert.are.equal(trained - 9 * 8, (model:count()))
    assert.are.equal(7, model:freeze { "blocks.1", "norm" })
    assert.is_false(model:tensors()["blocks.1.mlp.up.weight"]:wants_grad())
    local _, names = model:parameters()
    assert.are.same({ "blocks.2.norm1.weight", "blocks.2.attention.qkv.weight",
      "blocks.2.attention.out.weight", "blocks.2.norm2.weight", "blocks.2.mlp.up.weight",
      "blocks.2.mlp.down.weight" }, { table.unpack(names) })
    assert.are.equal(1, model:unfreeze "embedding")
    assert.are.equal(14, model:unfreeze())
    assert.are.equal(trained, (model:count()))
    assert.raises("freeze: 'embed' fits no parameter; there are embedding.weight, blocks.1.norm1",
      function() model:freeze "embed" end)
    assert.raises("the pattern must be a text, got nothing", function() model:freeze() end)
    assert.raises("a pattern must be a text, got number", function() model:freeze { 3 } end)
  end)

  it("leaves the gradients of all else the same bits", function()
    local whole = gradients(model_of())
    for _, pattern in ipairs { "embedding", "blocks.1", "norm1|qkv", "*.mlp.*" } do
      local model = model_of()
      model:freeze(pattern)
      local frozen = 0
      local part = gradients(model)
      for name, grad in pairs(whole) do
        if part[name] then
          assert.bits_equal(grad, part[name])
        else
          frozen = frozen + 1
        end
      end
      assert.is_true(frozen > 0)
    end
  end)

  it("lets weights stay, through training that is saved and goes on with the same bits", function()
    local function is_frozen(name) return name:find "embedding" or name:find "^blocks%.1%." end
    local function all() return true end
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local model = model_of()
    model:freeze "embedding|blocks.1"
    local opt = pf.optim.adamw(model, {})
    local before = bytes_of(model, is_frozen)
    train(model, opt, 2)
    assert(pf.checkpoint.save(folder, { model = model, optimizer = opt }))
    train(model, opt, 2)
    assert.is_true(before == bytes_of(model, is_frozen))
    local loaded = assert(pf.checkpoint.load(folder))
    assert.are.equal((model:count()), (loaded.model:count()))
    train(loaded.model, loaded.optimizer, 2)
    assert.is_true(bytes_of(model, all) == bytes_of(loaded.model, all))
    for _, tensor in ipairs(pf.inspect(folder).tensors) do
      assert.is_false(tensor.name:find "%.m$" ~= nil and is_frozen(tensor.name))
    end
  end)

  it("is no part of what a stream's file knows the model by", function()
    local path = os.tmpname()
    finally(function() os.remove(path) end)
    local model = model_of()
    local stream = model:stream()
    stream:feed { 1, 2, 3 }
    assert(stream:save(path))
    model:freeze "embedding"
    assert(model:load_stream(path))
  end)

  it("stands in a model's tree, which only then says so", function()
    local model = model_of()
    assert.is_nil(model:tree().frozen)
    model:freeze "blocks.2.mlp"
    assert.are.same({ "blocks.2.mlp.up.weight", "blocks.2.mlp.down.weight" },
      { table.unpack(model:tree().frozen) })
    local again = nn.build(model:tree())
    assert.are.equal((model:count()), (again:count()))
    local tree = model:tree()
    tree.frozen[1] = "blocks.3.mlp.up.weight"
    assert.raises("'frozen' names 2 parameters, and 1 of them are there",
      function() nn.build(tree) end)
    tree.frozen = { 4 }
    assert.raises("'frozen' must be a list of names", function() nn.build(tree) end)
  end)
end)

describe("adapters", function()
  it("compute y = act(x W^T + b + scale (x A^T) B^T)", function()
    for _, act in ipairs { "none", "gelu", "gelu_tanh", "relu", "silu", "square_relu" } do
      pf.seed(3)
      local layer = nn.linear { from = 6, to = 5, act = act }
      assert.are.equal(1, layer:adapt { match = "*", rank = 2, scale = 0.7 })
      layer:tensors().bias:copy_(pf.randn(5))
      stir(layer)
      local x, w = array.random(1):normals { 2, 3, 6 }, {}
      for name, tensor in pairs(layer:tensors()) do w[name] = array.of(tensor) end
      local low = oracle.linear({ x = x, weight = w["adapter.a"] }, {})[1]
      local part = oracle.linear({ x = low, weight = w["adapter.b"] }, {})[1]
      local y = oracle.linear({ x = x, weight = w.weight, bias = w.bias }, {})[1]
      for i = 1, #y do y[i] = y[i] + 0.7 * part[i] end
      local f = ({ none = false, square_relu = oracle.requ })[act]
      if f == nil then f = oracle[act] end
      assert.near_tensor(array.tensor(f and f({ x = y })[1] or y), layer(array.tensor(x)), 1e-6)
    end
  end)

  it("change nothing at first, and leave nothing else to train", function()
    local model = model_of()
    local before = model(ids)
    assert.are.equal(8, model:adapt { rank = 3 })
    assert.near_tensor(before, model(ids), 1e-6)
    local _, names = model:parameters()
    assert.are.equal(16, #names)
    for _, name in ipairs(names) do assert.truthy(is_adapter(name)) end
    assert.are.equal(2, model_of():adapt { match = "blocks.*.attention.qkv" })
    local groups = { { heads = 1, attention = "exact" }, { heads = 1, kernel = { features = 8 } } }
    assert.are.equal(12, model_of({ head_groups = groups }):adapt())
    assert.are.equal(4, model_of():adapt { match = { "qkv", "mlp.down" }, scale = 2 })
  end)

  it("have no higher rank than the largest of their weights", function()
    local two = nn.chain { nn.linear { from = 6, to = 5 }, nn.linear { from = 5, to = 3 } }
    assert.raises("adapt: rank is 6, and no weight there has more than 5",
      function() two:adapt { match = "*", rank = 6 } end)
    assert.raises("adapt: rank is 4, and no weight there has more than 3",
      function() two:adapt { match = "2", rank = 4 } end)
    assert.are.equal(2, two:adapt { match = "*", rank = 5 })
  end)

  it("have the gradients of their definition", function()
    pf.seed(3)
    local layer = nn.linear { from = 6, to = 5, act = "gelu" }
    layer:adapt { match = "*", rank = 2, scale = 0.7 }
    stir(layer)
    local t, x = layer:tensors(), pf.randn(4, 6)
    pf.check.gradient(function() return layer(x) end, { t["adapter.a"], t["adapter.b"] })
    local model = adapted()
    local one = model:tensors()["blocks.1.attention.qkv.adapter.a"]
    pf.check.gradient(function() return model(ids):cross_entropy(ids) end, { one })
  end)

  it("stream, hold the promises of bits, and are saved", function()
    local model = adapted()
    pf.check.streaming(model, ids)
    pf.check.bits(model, ids)
    pf.check.saved(model, ids)
  end)

  it("hold in every layer that has linear ones in it", function()
    local count = 0
    for _, row in ipairs(pf.layers()) do
      local layer = layers.make(row, { causal = true })
      if pcall(layer.adapt, layer, { match = "*", rank = 2 }) then
        stir(layer)
        local x = layers.input(layer, 1)
        local batch = layers.inputs(layer, x:size(1), { input = x })
        local ahead = not layers.streams(row)
        pf.check.bits(layer, batch, ahead and { causal = false } or nil)
        if pcall(layers.state, layer, x:size(1)) then -- a pool sees whole rows
          pf.check.streaming(layer, batch)
          pf.check.saved(layer, batch)
        end
        count = count + 1
      end
    end
    assert.is_true(count >= 6, tostring(count))
  end)

  it("train recomputed, reversible and in slices", function()
    local whole, again = gradients(adapted()), gradients(adapted { recompute = true })
    local sliced = gradients(adapted { length = 64 }, 1)
    for name, grad in pairs(whole) do
      assert.bits_equal(grad, again[name])
      assert.near_tensor(grad, sliced[name], 1e-4)
    end
    local reversible = adapted { reversible = true }
    local found = gradients(reversible)
    local _, names = reversible:parameters()
    for _, name in ipairs(names) do assert.truthy(found[name], name) end
  end)

  it("count in a loss without whole logits, in the head too", function()
    local model = model_of { tied = false }
    model:adapt { match = "*", rank = 2, scale = 3 }
    stir(model)
    local whole = model(ids):cross_entropy(ids):item()
    assert.near(whole, model:loss({ input = ids, target = ids }):item(), 1e-5)
  end)

  it("learn, and the base stays to the bit; saved, they go on with the same bits", function()
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local model = adapted()
    local function is_base(name) return not is_adapter(name) end
    local base, first = bytes_of(model, is_base), bytes_of(model, is_adapter)
    local opt = pf.optim.adamw(model, {})
    train(model, opt, 2)
    assert(pf.checkpoint.save(folder, { model = model, optimizer = opt }))
    train(model, opt, 2)
    assert.is_true(base == bytes_of(model, is_base))
    assert.is_false(first == bytes_of(model, is_adapter))
    local loaded = assert(pf.checkpoint.load(folder))
    train(loaded.model, loaded.optimizer, 2)
    assert.is_true(bytes_of(model, is_adapter) == bytes_of(loaded.model, is_adapter))
  end)

  it("become a part of the weights", function()
    local model = adapted()
    local before = model(ids)
    assert.are.equal(8, model:merge())
    assert.near_tensor(before, model(ids), 1e-5)
    assert.are.equal(0, model:merge())
    for name in pairs(model:tensors()) do assert.is_false(is_adapter(name)) end
    assert.is_nil(model:tree().adapters)
    assert.are.equal(0, (model:count()))
    model:unfreeze()
    assert.are.equal((model_of():count()), (model:count()))
    assert.are.equal(8, model:adapt { rank = 1 })
    assert.are.equal(16, #select(2, model:parameters()))
  end)

  it("are one where a layer is shared", function()
    pf.seed(3)
    local block = nn.block { dim = 8, heads = 2, causal = true, kernel = { features = 8 } }
    local model = nn.chain { block, block }
    assert.are.equal(4, model:adapt { rank = 2 })
    local again = nn.build(model:tree())
    assert.are.equal((model:count()), (again:count()))
  end)

  it("say what is wrong in a sentence", function()
    local model = model_of()
    local tensors = #select(2, model:parameters())
    assert.raises("adapt: 'head' fits no linear layer; there are blocks.1.attention.qkv, ",
      function() model:adapt { match = "head" } end)
    assert.raises("adapt: rank is 0, must be 1 to", function() model:adapt { rank = 0 } end)
    assert.raises("adapt: scale is inf, must be finite",
      function() model:adapt { scale = math.huge } end)
    assert.raises("unknown option 'ranks'", function() model:adapt { ranks = 2 } end)
    assert.are.equal(tensors, #select(2, model:parameters()))
    model:adapt { match = "qkv" }
    assert.raises("'blocks.1.attention.qkv' has an adapter already; merge it first",
      function() model:adapt {} end)
    assert.are.equal(4, #select(2, model:parameters()))
    local function bad(pattern, row)
      local tree = model:tree()
      tree.adapters[1] = row
      assert.raises(pattern, function() nn.build(tree) end)
    end
    bad("an adapter is for 'blocks.9.x', and there is no such linear layer",
      { layer = "blocks.9.x", rank = 1, scale = 1 })
    bad("an adapter is for 'norm', and there is no such", { layer = "norm", rank = 1, scale = 1 })
    bad("the adapter of 'blocks.1.mlp.up' has rank 0.5", { layer = "blocks.1.mlp.up", rank = 0.5,
      scale = 1 })
    bad("an adapter is for '%?'", {})
  end)
end)
