-- Several backward passes before one step: their sum is the gradient of the mean over all targets,
-- and each pass has random numbers of its own.
local pf = require "performer"
require "spec.support"

local VOCAB, LENGTH = 11, 32

local function performer(more)
  pf.seed(6)
  local options = { vocab = VOCAB, dim = 16, layers = 2, heads = 2, length = LENGTH, causal = true }
  for key, value in pairs(more or {}) do options[key] = value end
  return pf.nn.performer(options)
end

--- Rows of ids and of targets, of which row b has its first 3 b left out.
local function rows(first, last)
  local input, target, tokens = {}, {}, 0
  for b = first, last do
    local ids, next_ids = {}, {}
    for i = 1, LENGTH do
      ids[i] = (b * 7 + i * i) % VOCAB
      next_ids[i] = i <= 3 * b and -1 or (b + 3 * i) % VOCAB
      if next_ids[i] >= 0 then tokens = tokens + 1 end
    end
    input[#input + 1], target[#target + 1] = ids, next_ids
  end
  return { input = pf.tensor(input, { dtype = "i32" }),
           target = pf.tensor(target, { dtype = "i32" }), tokens = tokens }
end

local function gradients(model)
  local list, names = model:parameters()
  local found = {}
  for i, p in ipairs(list) do found[names[i]] = p:grad():detach() end
  model:clear_grad()
  return found
end

local function assert_near(want, got, tolerance)
  for name, g in pairs(want) do
    local distance = (g - got[name]):abs():max():item() / g:abs():max():item()
    assert.is_true(distance < tolerance, ("%s: %g"):format(name, distance))
  end
end

--- A forward and a backward; the loss.
local function walk(model, batch, pass, weight)
  local tape <close> = pf.tape()
  local loss = model:loss(batch, pass)
  tape:backward(loss, weight)
  return loss:item()
end

describe("micro-steps", function()
  for name, more in pairs { plain = {}, reversible = { reversible = true },
                            recomputed = { recompute = true }, exact = { attention = "exact" } } do
    it("add up to one step over all rows, by the targets of each: " .. name, function()
      local model, all = performer(more), rows(1, 6)
      local loss = walk(model, all)
      local want, sum = gradients(model), 0
      for _, part in ipairs { rows(1, 2), rows(3, 3), rows(4, 6) } do
        local weight = part.tokens / all.tokens
        sum = sum + weight * walk(model, part, nil, weight)
      end
      assert.near(loss, sum, 1e-5)
      assert_near(want, gradients(model), 2e-5)
    end)
  end

  it("add up in slices, too: their losses are shares of the mean", function()
    local model, all = performer(), rows(1, 6)
    local loss = walk(model, all)
    local want, sum = gradients(model), 0
    for micro, part in ipairs { rows(1, 2), rows(3, 6) } do
      sum = sum + model:backward_sliced(part, { slices = 2, micro = micro - 1,
                                                counted = all.tokens })
    end
    assert.near(loss, sum, 1e-5)
    assert_near(want, gradients(model), 2e-5)
  end)

  it("have dropout of their own, the first as a step alone has it", function()
    local model, batch = performer { dropout = 0.3 }, rows(1, 2)
    local function run(pass)
      pass.training = true
      walk(model, batch, pass)
      return gradients(model)["embedding.weight"]:tobytes()
    end
    local seen = {}
    for step = 1, 2 do
      assert.equal(run { step = step }, run { step = step, micro = 0 })
      for micro = 0, 3 do
        local bits = run { step = step, micro = micro }
        assert.equal(bits, run { step = step, micro = micro })
        assert.is_nil(seen[bits])
        seen[bits] = true
      end
    end
    assert.raises("micro%-step 1 of step 16777216 has no random numbers of its own",
      function() run { step = 1 << 24, micro = 1 } end)
    assert.raises("micro%-step 524288 of step 1 ", function() run { step = 1, micro = 1 << 19 } end)
    run { step = 1 << 24 }
  end)

  it("have the same masks in a second run", function()
    local batch = rows(1, 2)
    local want
    for _, more in ipairs { {}, { recompute = true } } do
      more.dropout = 0.3
      local model = performer(more)
      walk(model, batch, { training = true, step = 2, micro = 3 })
      local got = gradients(model)
      for name, g in pairs(want or got) do assert.bits_equal(g, got[name]) end
      want = got
    end
  end)

  it("are one step: kernels are drawn anew once", function()
    local model = performer { kernel = { name = "softmax", features = 16, redraw = 2 } }
    local opt, batch = pf.optim.adamw(model), rows(1, 2)
    local drawn = {}
    for step = 1, 4 do
      for micro = 0, 2 do
        walk(model, batch, { training = true, step = step, micro = micro }, 1 / 3)
      end
      drawn[step] = select(2, opt:step { lr = 1e-3 })
    end
    assert.same({ 0, 2, 0, 2 }, drawn)
  end)

  it("give the mean's gradient for a number as the seed", function()
    local w = pf.ones(3):requires_grad()
    local function grad(...)
      local tape <close> = pf.tape()
      tape:backward((w * w):sum(), ...)
      local g = w:grad():detach()
      w:clear_grad()
      return g
    end
    assert.bits_equal(grad(pf.full({}, 0.25)), grad(0.25))
    assert.near_tensor({ 0.5, 0.5, 0.5 }, grad(0.25))
    local tape <close> = pf.tape()
    tape:backward(w * 2, 3)
    assert.near_tensor({ 6, 6, 6 }, w:grad())
  end)
end)
