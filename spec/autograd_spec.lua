-- autograd_spec.lua - tapes and gradients: what lives how long, what adds up, what is refused,
-- and that a step of training leaves no byte behind.
local pf = require "performer"
local array = require "spec.support.array"
require "spec.support"
local nn = pf.nn

local i32 = { dtype = "i32" }

--- f(inputs...) on a tape, its sum walked back; the inputs' gradients as tables.
local function gradients(f, ...)
  local inputs = { ... }
  for _, x in ipairs(inputs) do
    x:requires_grad()
    x:clear_grad()
  end
  do
    local tape <close> = pf.tape()
    tape:backward(f(table.unpack(inputs)):sum())
  end
  local grads = {}
  for i, x in ipairs(inputs) do grads[i] = x:grad() and x:grad():totable() or false end
  return table.unpack(grads)
end

local function live()
  collectgarbage()
  collectgarbage()
  return pf.memory().live
end

describe("a tape", function()
  it("ends at its scope: what was made under it says how to keep it", function()
    local w = pf.ones(2, 3):requires_grad()
    local inner, view
    do
      local tape <close> = pf.tape()
      inner = w * 2
      view = inner:transpose()
      assert.is_true(inner:alive() and view:alive())
      tape:backward(inner:sum())
    end
    assert.is_false(inner:alive())
    assert.is_false(view:alive())
    for _, dead in ipairs { inner, view } do
      for _, use in ipairs { function() return dead + 1 end, function() return dead:item() end,
                             function() return dead:detach() end,
                             function() return w:mul(dead) end } do
        local fine, message = pcall(use)
        assert.is_false(fine)
        assert.matches("tape has closed", message)
        assert.matches("detach", message)
      end
    end
  end)

  it("also owns what has no gradient", function()
    local made
    do
      local tape <close> = pf.tape()
      made = pf.zeros(4)
      assert.is_not_nil(tape)
    end
    assert.is_false(made:alive())
  end)

  it("leaves alone what was there before, and what is detached", function()
    local w, x = pf.ones(3):requires_grad(), pf.full({ 3 }, 2)
    local kept
    do
      local tape <close> = pf.tape()
      local y = w * x
      kept = y:detach()
      tape:backward(y:sum())
    end
    assert.is_true(w:alive() and x:alive() and kept:alive() and w:grad():alive())
    assert.same({ 2, 2, 2 }, kept:totable())
    assert.is_false(kept:wants_grad())
    assert.same({ 2, 2, 2 }, w:grad():totable())
  end)

  it("closes when an error passes through its scope", function()
    local inner
    local fine = pcall(function()
      local tape <close> = pf.tape()
      inner = pf.ones(3)
      error { tape }
    end)
    assert.is_false(fine)
    assert.is_false(inner:alive())
  end)

  it("walks once: a second backward is refused with the reason", function()
    local w = pf.ones(2):requires_grad()
    local tape <close> = pf.tape()
    local loss = (w * w):sum()
    tape:backward(loss)
    assert.raises("backward: .*walked already", function() tape:backward(loss) end)
    assert.same({ 2, 2 }, w:grad():totable())
  end)

  it("refuses a loss that is not one number, not its own, or of no leaf", function()
    local w = pf.ones(2):requires_grad()
    local tape <close> = pf.tape()
    assert.raises("backward: the loss is %[2%].*sum or mean", function() tape:backward(w * 2) end)
    assert.raises("backward: .*not made on this tape", function() tape:backward(pf.ones()) end)
    assert.raises("backward: the seed is %[3%], the loss %[2%]",
      function() tape:backward(w * 2, pf.ones(3)) end)
  end)

  it("refuses an outer backward while an inner tape is open", function()
    local w = pf.ones(2):requires_grad()
    local outer <close> = pf.tape()
    local loss = (w * w):sum()
    do
      local inner <close> = pf.tape()
      assert.raises("inner tape is still open", function() outer:backward(loss) end)
      assert.is_not_nil(inner)
    end
    outer:backward(loss)
    assert.same({ 2, 2 }, w:grad():totable())
  end)

  it("records nothing outside, and nothing without leaves", function()
    local w = pf.ones(2):requires_grad()
    local loss = (w * w):sum()
    local tape <close> = pf.tape()
    assert.raises("not made on this tape", function() tape:backward(loss) end)
    assert.raises("not made on this tape", function() tape:backward((pf.ones(2) * 3):sum()) end)
    assert.is_nil(w:grad())
  end)

  it("refuses requires_grad of what it made, and of whole numbers", function()
    assert.raises("requires_grad", function() pf.ones(2, i32):requires_grad() end)
    local w = pf.ones(2):requires_grad()
    local tape <close> = pf.tape()
    local y = w * 2
    assert.raises("requires_grad.*detach", function() y:requires_grad() end)
    assert.is_not_nil(tape)
  end)
end)

describe("gradients", function()
  it("add up over the uses of a tensor", function()
    assert.same({ 6, 6 }, gradients(function(w) return w + w * 2 + w * 3 end, pf.ones(2)))
    assert.same({ 4 }, gradients(function(w) return w * w + w * w end, pf.tensor { 1 }))
  end)

  it("go through views of one tensor", function()
    local a = gradients(function(w)
      return w:slice(1, 1, 2):sum() + (w:slice(1, 2, 3) * 10):sum() + w:reshape(3,
        1):transpose():sum()
    end, pf.tensor { 1, 2, 3 })
    assert.same({ 2, 12, 11 }, a)
  end)

  it("of heads add up, in whatever layout they arrive", function()
    local x, c = pf.randn(2, 3, 8):requires_grad(), pf.randn(2, 2, 2, 3)
    local tape <close> = pf.tape()
    local first = x:split_heads { heads = 2, kv_heads = 1 } -- queries
    local again = x:split_heads { heads = 2, kv_heads = 1 }
    tape:backward((first:transpose(3, 4) * c):sum() + (again:transpose(3, 4) * c * 2):sum())
    local queries = x:grad():slice(3, 1, 4):reshape(2, 3, 2, 2):permute(1, 3, 4, 2)
    assert.is_true((queries - c * 3):abs():max():item() < 1e-5)
    assert.equal(0, x:grad():slice(3, 5, 8):abs():max():item())
  end)

  it("broadcast back to the shape of each input", function()
    local a, b = gradients(function(x, y) return x * y end, pf.ones(2, 1, 3), pf.full({ 4, 1 }, 2))
    assert.same({ { { 8, 8, 8 } }, { { 8, 8, 8 } } }, a)
    assert.same({ { 6 }, { 6 }, { 6 }, { 6 } }, b)
  end)

  it("stop at a detached tensor", function()
    local a = gradients(function(w) return w * w:detach() end, pf.tensor { 3, 4 })
    assert.same({ 3, 4 }, a)
  end)

  it("stop at ops without one", function()
    local w = pf.tensor { 3, 4 }:requires_grad()
    local tape <close> = pf.tape()
    local place = w:argmax(1)
    assert.equal("i32", place:dtype())
    tape:backward((w * 2):sum())
    assert.same({ 2, 2 }, w:grad():totable())
  end)

  it("add up over tapes, until they are cleared", function()
    local w = pf.ones(2):requires_grad()
    for times = 1, 3 do
      local tape <close> = pf.tape()
      tape:backward((w * 5):sum())
      assert.same({ 5 * times, 5 * times }, w:grad():totable())
    end
    w:clear_grad()
    assert.is_nil(w:grad())
    assert.same({ 1, 1 }, (gradients(function(x) return x * 1 end, w)))
  end)

  it("of a leaf that is not used stay none", function()
    local a, b = gradients(function(x) return x * 2 end, pf.ones(1), pf.ones(1))
    assert.same({ 2 }, a)
    assert.is_false(b)
  end)

  it("have the same bits every time", function()
    local random = array.random(8)
    local w, x = array.tensor(random:normals { 50, 40 }), array.tensor(random:normals { 70, 50 })
    w:requires_grad()
    assert.is_true(pf.check.deterministic(function()
      w:clear_grad()
      local tape <close> = pf.tape()
      tape:backward(x:matmul(w):tanh():sum())
      return w:grad()
    end, 3))
  end)

  it("meet in weights that two layers share", function()
    local shared = nn.linear { from = 3, to = 3, bias = false }
    local model = nn.chain { shared, shared }
    local weight = shared:tensors()["weight"]
    local x = pf.randn(4, 3)
    local function f(w) return pf.linear(pf.linear(x, w), w) end
    local want = gradients(f, weight:detach())
    weight:clear_grad()
    do
      local tape <close> = pf.tape()
      tape:backward(model(x):sum())
    end
    assert.near_tensor(want, weight:grad(), 1e-6)
  end)
end)

describe("memory", function()
  it("is back at its mark after a step", function()
    local model = nn.performer { vocab = 20, dim = 16, layers = 2, heads = 2, causal = true,
      kernel = { name = "softmax", features = 8 } }
    local opt = pf.optim.adamw(model, { lr = 1e-3 })
    local ids = array.tensor(array.random(4):whole({ 2, 20 }, 0, 19))
    local function step()
      local tape <close> = pf.tape()
      tape:backward(model(ids):cross_entropy(ids))
      opt:step {}
    end
    step()
    step()
    local mark = live()
    for _ = 1, 3 do
      step()
      assert.equal(mark, live())
    end
  end)

  it("goes back at the end of the scope, not when a collector comes", function()
    collectgarbage "stop"
    finally(function() collectgarbage "restart" end)
    local w = pf.ones(64, 64):requires_grad()
    local function step()
      local tape <close> = pf.tape()
      local x = w
      for _ = 1, 20 do x = x:matmul(w) * 0.01 end
      tape:backward(x:sum())
      w:clear_grad()
    end
    step()
    local mark = pf.memory().live
    for _ = 1, 5 do step() end
    -- Headers wait for the collector; the 16 KB each of 40 matrices a step do not.
    assert.is_true(pf.memory().live - mark < 5 * 40 * 1024)
  end)

  it("of what backward has used goes back on the way", function()
    local w = pf.ones(128, 128):requires_grad()
    local function peak(n)
      local tape <close> = pf.tape()
      local x = w
      for _ = 1, n do x = x:tanh() end
      local loss = x:sum()
      local before = pf.memory().live
      pf.reset_peak()
      tape:backward(loss)
      w:clear_grad()
      return pf.memory().peak - before
    end
    peak(4)
    -- 65,536 bytes a matrix: backward of a long chain needs a few, not one a step.
    assert.is_true(peak(64) < 6 * 65536)
  end)

  it("keeps to the budget, and goes on after an error", function()
    local child = require "spec.support.child"
    local text = child.run([[
      local w = pf.ones(256, 256):requires_grad()
      local fine, message = pcall(function()
        local tape <close> = pf.tape()
        local x = w
        for _ = 1, 1000 do x = x:exp():log() end
        tape:backward(x:sum())
      end)
      print(fine, message)
      local tape <close> = pf.tape()
      tape:backward((w * 2):sum())
      print(w:grad()[1][1]:item(), pf.memory().peak <= 16 * 2^20)
    ]], "{memory = '16M', threads = 1}")
    assert.matches("^false.*memory", text)
    assert.matches("2.0%s+true", text)
  end)
end)
