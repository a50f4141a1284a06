-- reversible_spec.lua - reversible blocks: the sums that they are, gradients held against the
-- same sums on a plain tape and against differences, and activations that don't grow with depth.
local pf = require "performer"
local commands = require "spec.support.commands"
local models = require "spec.support.models"
local support = require "spec.support"
local nn = pf.nn

local i32 = { dtype = "i32" }

local ids, take, assert_gradients = models.ids, models.take_gradients, models.assert_gradients

local function model_of(options)
  local o = { reversible = true }
  for key, value in pairs(options or {}) do o[key] = value end
  return models.new(o)
end

--- Gradients by name, and the loss, by the reversible backward.
local function reversed(model, batch, step)
  for _, p in ipairs(model:parameters()) do p:clear_grad() end
  local tape <close> = pf.tape()
  local pass = { training = true, step = step, mask = batch.mask, documents = batch.documents,
                 prefix = batch.prefix }
  local loss = model(batch.input, pass):cross_entropy(batch.target)
  tape:backward(loss)
  return take(model), loss:item()
end

describe("a reversible model", function()
  local batch = { input = ids(2, 40, 19, 1), target = ids(2, 40, 19, 2) }

  describe("has the gradient of the same sums on a plain tape", function()
    local rows = { {}, {} }
    for b = 1, 2 do
      for t = 1, 40 do rows[b][t] = (t + b) // 9 end
    end
    local packed = pf.tensor(rows, i32)
    for name, case in pairs {
      plain = { {} },
      dropout = { { dropout = 0.3, conv = 4 } },
      ["heads that forget"] = { { decay = 1, qk_norm = true, act = "swiglu", norm = "rmsnorm" } },
      ["packed documents"] = { { conv = 3, dropout = 0.1 }, { documents = packed } },
      ["eight layers"] = { { layers = 8, tied = false } },
      ["identity attention"] = { { attention = "identity" } },
    } do
      it("with " .. name, function()
        local model, given = model_of(case[1]), {}
        for key, value in pairs(batch) do given[key] = value end
        for key, value in pairs(case[2] or {}) do given[key] = value end
        local grads, loss = reversed(model, given, 5)
        -- One slice is the whole, and slices keep what they make.
        local plain_loss = model:backward_sliced(given, { slices = 1, step = 5 })
        assert.is_true(math.abs(plain_loss - loss) <= 1e-6 * loss)
        assert_gradients(take(model), grads, 1e-4)
      end)
    end
  end)

  it("runs again under the seed of its forward, whatever was set since", function()
    local model = model_of { dropout = 0.3 }
    local function grads_of(between)
      pf.seed(4)
      local tape <close> = pf.tape()
      local loss = model(batch.input, { training = true, step = 2 }):cross_entropy(batch.target)
      between()
      tape:backward(loss)
      return take(model)
    end
    local expected = grads_of(function() end)
    local grads = grads_of(function() pf.seed(99) end)
    for name, grad in pairs(expected) do assert.bits_equal(grad, grads[name]) end
  end)

  it("is the sums that it says, made by hand of a block's layers", function()
    local block = { dim = 12, heads = 3, causal = false, kernel = { name = "relu" }, conv = 3 }
    local first, second = nn.block(block), nn.block(block)
    local layer = nn.reversible { first, second }
    local x = pf.randn(2, 9, 12):requires_grad()
    local function by_hand()
      local a, b = x, x
      for _, each in ipairs { first, second } do
        local norm1, attention, norm2, mlp, conv = table.unpack(each:children())
        a = a + attention(conv(norm1(b)))
        b = b + mlp(norm2(a))
      end
      return (a + b) * 0.5
    end
    local weight = pf.randn(2, 9, 12)
    local outs, grads = {}, {}
    for i, f in ipairs { by_hand, function() return layer(x) end } do
      do
        local tape <close> = pf.tape()
        local y = f()
        outs[i] = y:detach()
        tape:backward((y * weight):sum())
      end
      grads[i] = take(layer)
      grads[i].x = x:grad():detach()
      x:clear_grad()
    end
    assert.near_tensor(outs[1], outs[2], 1e-6)
    assert.bits_equal(layer(x), outs[2]) -- without a tape
    assert_gradients(grads[1], grads[2], 1e-4)
  end)

  it("has the gradient of differences", function()
    local block = { dim = 8, heads = 2, causal = true, kernel = { name = "softmax",
                                                                  features = 16, seed = 2 } }
    local layer = nn.reversible { nn.block(block), nn.block(block), nn.block(block) }
    pf.check.gradient(function(x) return layer(x) end, pf.randn(2, 7, 8))
    local w = layer:tensors()["2.mlp.up.weight"]
    local x = pf.randn(1, 5, 8)
    pf.check.gradient(function() return layer(x) end, { w })
  end)

  it("takes no more activations when it is deeper", function()
    local long = { input = ids(2, 256, 19, 1), target = ids(2, 256, 19, 2) }
    local peaks = {}
    for _, reversible in ipairs { true, false } do
      for _, layers in ipairs { 2, 8 } do
        local model = model_of { layers = layers, dim = 64, heads = 4, reversible = reversible }
        reversed(model, long, 1) -- gradients are there
        collectgarbage()
        collectgarbage()
        local before = pf.memory().live
        pf.reset_peak()
        do
          local tape <close> = pf.tape()
          tape:backward(model(long.input):cross_entropy(long.target))
        end
        peaks[#peaks + 1] = pf.memory().peak - before
      end
    end
    assert.is_true(peaks[2] < 1.05 * peaks[1], ("%d, %d"):format(peaks[1], peaks[2]))
    assert.is_true(peaks[2] < 0.25 * peaks[4], ("%d, %d"):format(peaks[2], peaks[4]))
  end)

  it("streams what it reads at once", function()
    local model = model_of { conv = 4, decay = 1 }
    local x = batch.input
    local whole = model(x)
    local state = model:state { batch = 2 }
    assert.near_tensor(whole:slice(2, 1, 30), model:prefill(x:slice(2, 1, 30), state), 1e-5)
    for t = 31, 40 do
      assert.near_tensor(whole:slice(2, t, t):reshape(2, 19),
                         model:step(x:slice(2, t, t):reshape(2), state), 1e-5)
    end
  end)

  it("trains in slices too", function()
    local model = model_of { conv = 4 }
    local grads = reversed(model, batch, 0)
    model:backward_sliced(batch, { slices = 2 })
    assert_gradients(take(model), grads, 1e-4)
  end)

  it("lies in checkpoints, and goes round as a tree", function()
    local dir = support.folder()
    finally(function() support.remove(dir) end)
    local model = model_of {}
    assert.is_truthy(pf.checkpoint.save(dir .. "/a", { model = model }))
    local loaded = assert(pf.checkpoint.load(dir .. "/a")).model
    assert.is_true(loaded:options().reversible)
    assert.bits_equal(model(batch.input), loaded(batch.input))
    local _, names = model_of { reversible = false }:parameters()
    assert.are.same(names, select(2, model:parameters()))
  end)

  it("refuses children without two branches, and hands on what fails", function()
    assert.raises("child 2 is a 'linear'; children must be blocks", function()
      nn.reversible { nn.block { dim = 8, heads = 2 }, nn.linear { from = 8, to = 8 } }
    end)
    local layer = nn.reversible { nn.block { dim = 8, heads = 2 } }
    local x = pf.randn(2, 3, 4):requires_grad()
    local tape <close> = pf.tape()
    assert.raises("layer 1%.norm1: layernorm: x is", function() layer(x) end)
    tape:close()
    assert.bits_equal(x, nn.reversible {}(x))
  end)
end)

describe("train --reversible", function()
  setup(commands.start)
  teardown(commands.stop)

  it("trains, resumes to the bit, evaluates and generates", function()
    local more = ("--data %s --layers 2 --log-every 1 --eval-every 10"):format(
      commands.path "p.fasta")
    local whole = commands.train("whole", more .. " --reversible --steps 20 --threads 2")
    assert.is_true(pf.inspect(whole).config.options.reversible)
    local copy = commands.train("again", more .. " --reversible --steps 20 --threads 1")
    assert.are.equal(commands.losses(whole), commands.losses(copy))
    for _, each in ipairs { whole, copy } do
      commands.good(("train --resume %s --steps 30"):format(each))
    end
    assert.are.equal(commands.losses(whole), commands.losses(copy))
    local out = commands.good(("generate --checkpoint %s --prompt MK --tokens 5 --seed 1")
      :format(whole))
    assert.is_true(#out > 5)
  end)
end)
