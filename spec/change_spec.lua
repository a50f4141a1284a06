-- change_spec.lua - tensors that are changed in place while a tape is open: never another gradient
-- in silence. For every op of the table and every tensor that it was given or gave, a change before
-- backward is an error that says what, or leaves the gradient as it was, to the bit; and training
-- loops that change things where nobody reads them again raise nothing.
local pf = require "performer"
local calls = require "spec.support.op_calls"
local cases = require "spec.support.cases"
require "spec.support"
local nn = pf.nn

local i32 = { dtype = "i32" }

-- ---- every op --------------------------------------------------------------------------

--- The first output of a case's op, walked back with every leaf's gradient as bytes. `change` gets
--- the inputs and the output between forward and backward. `only`: the one leaf.
local function walk(op, case, change, only)
  local tensors = calls.tensors_of(case, "plain")
  local leaves = calls.leaves_of(case, tensors)
  pf.seed(3)
  for i, leaf in ipairs(leaves) do
    if not only or i == only then leaf.t:requires_grad() end
  end
  local views = {}
  for name, t in pairs(tensors) do
    if name ~= "tensors" then views[name] = t:reshape(t:numel()) end
  end
  local tape <close> = pf.tape()
  local y = calls.call(op, tensors, case[2])
  local z = y + 0 -- reads no numbers
  change(tensors, y, views)
  tape:backward(z, pf.full(z:shape(), 0.75))
  local bytes = {}
  for i, leaf in ipairs(leaves) do
    local grad = leaf.t:grad()
    bytes[i] = grad and grad:tobytes() or ""
  end
  return table.concat(bytes, "|")
end

--- Whether the change was refused; raises where it was not and made another gradient.
local function refused(op, case, change, what, only)
  local want = walk(op, case, function() end, only)
  local fine, got = pcall(walk, op, case, change, only)
  if not fine then
    if tostring(got):find("at several places", 1, true) then return false end -- nobody writes there
    assert.matches("changed in place by fill_ since", tostring(got))
    assert.matches(op.name, tostring(got), 1, true)
    return true
  end
  assert.is_true(want == got, calls.text_of(op, case) .. ": another gradient after " .. what)
  return false
end

--- Good cases with a gradient and numbers in them, some of them.
local function some(entry)
  local list = {}
  for _, case in ipairs(entry.good) do
    local tensors = calls.tensors_of(case, "plain")
    local fits = case.grad == nil and not tensors.tensors and #calls.leaves_of(case, tensors) > 0
    for _, t in pairs(fits and tensors or {}) do fits = fits and t:numel() > 0 end
    if fits and #list < 4 then list[#list + 1] = case end
  end
  return list
end

describe("a change between forward and backward", function()
  local refusals = 0
  for _, op in ipairs(pf.ops()) do
    local entry = cases[op.name]
    if op.differentiable and entry and not entry.custom then
      it("is refused or harmless: " .. op.name, function()
        for _, case in ipairs(some(entry)) do
          for name, x in pairs(case[1]) do
            local value = x.dtype == "i32" and 0 or 0.25
            local function direct(t) t[name]:fill_(value) end
            local function through_view(_, _, v) v[name]:fill_(value) end
            if refused(op, case, direct, name .. ":fill_") then refusals = refusals + 1 end
            refused(op, case, through_view, "a view of " .. name)
            -- The one leaf whose gradient may read less than all of them together.
            for i = 1, #calls.leaves_of(case, calls.tensors_of(case, "plain")) do
              refused(op, case, direct, name .. ":fill_, one leaf", i)
            end
          end
          if refused(op, case, function(_, y) y:fill_(0.25) end, "the result") then
            refusals = refusals + 1
          end
        end
      end)
    end
  end

  it("was refused often", function() assert.is_true(refusals > 60, tostring(refusals)) end)
end)

-- ---- what may change -------------------------------------------------------------------

--- f(w, x) on a tape with w a leaf and x a constant, change(w, x) before backward: w's gradient.
local function gradient(f, change, w, x)
  w = (w or pf.tensor { 2, 3 }):requires_grad()
  x = x or pf.tensor { 5, 7 }
  w:clear_grad()
  local tape <close> = pf.tape()
  local y = f(w, x):sum()
  change(w, x)
  tape:backward(y)
  return w:grad():totable()
end

describe("what backward does not read", function()
  local function change_both(w, x) w:fill_(9) x:fill_(9) end
  local function change_leaf(w) w:fill_(9) end
  local function change_constant(_, x) x:fill_(9) end

  it("may change: sums, shifts, scales, shapes", function()
    assert.same({ 1, 1 }, gradient(function(w, x) return w + x end, change_both))
    assert.same({ -1, -1 }, gradient(function(w, x) return x - w end, change_both))
    assert.same({ 3, 3 }, gradient(function(w) return w * 3 + 1 end, change_both))
    assert.same({ 2, 0 }, gradient(function(w) return w:slice(1, 1, 1):reshape(1, 1) * 2 end,
      change_both))
  end)

  it("may change: a factor whose partner has no gradient", function()
    assert.same({ 5, 7 }, gradient(function(w, x) return w * x end, change_leaf))
    assert.same({ 0.25, 0.5 }, gradient(function(w, x) return w / x end, change_leaf, nil,
      pf.tensor { 4, 2 }))
    assert.raises("mul.*changed in place", function()
      gradient(function(w, x) return w * x end, change_constant)
    end)
  end)

  it("may change: weights of a first layer, biases, scales of a norm of a constant", function()
    local x = pf.tensor { { 1, 2 }, { 3, 4 } }
    local function linear(w) return pf.linear(x, w:reshape(1, 2)) end
    assert.same({ 4, 6 }, gradient(linear, change_leaf))
    local function bias(b) return pf.linear(x, pf.ones(2, 2), { bias = b }) end
    assert.same({ 2, 2 }, gradient(bias, function(b) b:fill_(9) end))
    local function weight(w) return x:layernorm(w) end
    local want = gradient(weight, function() end)
    assert.same(want, gradient(weight, change_leaf))
  end)

  it("are told at the call of an op in place, where backward would read them again", function()
    local w, x = pf.tensor { 2, 3 }:requires_grad(), pf.tensor { 5, 7 }:requires_grad()
    local tape <close> = pf.tape()
    local loss = (w * x + w):sum()
    for name, change in pairs { add_ = function() w:add_(1) end,
                                mul_ = function() x:mul_(w) end } do
      assert.raises(name .. ": x %[2%] requires a gradient, and backward of mul %(op 1 on the open "
        .. "tape%) would read it again; change it after backward", change)
    end
    tape:backward(loss)
    assert.same({ { 6, 8 }, { 2, 3 } }, { w:grad():totable(), x:grad():totable() })
    w:add_(1)
    assert.same({ 3, 4 }, w:totable())
  end)

  it("may change by an op in place: of what is read no more", function()
    local w, b, x = pf.tensor { 2, 3 }:requires_grad(), pf.ones(2):requires_grad(), pf.ones(2)
    local tape <close> = pf.tape()
    local loss = (w * x + b):sum()
    b:add_(1)
    w:mul_(2)
    tape:backward(loss)
    w:sub_(0.1 * w:grad())
    assert.same({ 1, 1 }, w:grad():totable())
    assert.same({ 2, 2 }, b:totable())
  end)

  it("may change: ids and buffers once backward is through, or the tape has closed", function()
    local table_, ids = pf.randn(5, 3):requires_grad(), pf.arange(4, i32)
    for step = 1, 3 do
      ids:fill_(step)
      local tape <close> = pf.tape()
      tape:backward(table_:embedding(ids):sum())
      ids:fill_(0)
      table_:fill_(step)
    end
    assert.same({ 12, 12, 12 }, { table_:grad():sum(2)[2]:item(), table_:grad():sum(2)[3]:item(),
                                  table_:grad():sum(2)[4]:item() })
  end)
end)

-- ---- what is written by others ---------------------------------------------------------

local function small(more)
  local options = { vocab = 20, dim = 16, layers = 2, heads = 2, causal = true,
                    kernel = { name = "softmax", features = 8 } }
  for name, value in pairs(more or {}) do options[name] = value end
  return nn.performer(options)
end

local function ids_of(seed)
  local list = {}
  for i = 1, 24 do list[i] = (i * seed * 7 + i * i) % 20 end
  return pf.tensor(list, i32):reshape(2, 12)
end

describe("a change by the engine itself", function()
  for _, option in ipairs { {}, { recompute = true }, { reversible = true } } do
    local name = next(option) or "plain"

    it("opt:step before backward: " .. name, function()
      local model, ids = small(option), ids_of(1)
      local opt = pf.optim.sgd(model, { lr = 0.1 })
      do
        local tape <close> = pf.tape()
        tape:backward(model(ids):cross_entropy(ids))
      end
      local tape <close> = pf.tape()
      local loss = model(ids):cross_entropy(ids)
      opt:step {}
      assert.raises("changed in place by a step of the optimizer", function()
        tape:backward(loss)
      end)
    end)

    it("ids before backward: " .. name, function()
      local model, ids = small(option), ids_of(1)
      local targets = ids:detach()
      local tape <close> = pf.tape()
      local loss = model(ids):cross_entropy(targets)
      ids:fill_(3)
      assert.raises("changed in place by fill_", function() tape:backward(loss) end)
    end)
  end

  it("targets and masks before backward", function()
    local model, ids = small { causal = false }, ids_of(1)
    for _, which in ipairs { "target", "mask" } do
      local target, mask = ids:detach(), pf.ones(2, 12, i32)
      local tape <close> = pf.tape()
      local loss = model(ids, { mask = mask }):cross_entropy(target)
      local changed = which == "target" and target or mask
      changed[1] = 0
      assert.raises("changed in place by an assignment", function() tape:backward(loss) end)
    end
  end)

  it("a projection drawn again, a model loaded", function()
    local model, ids = small { kernel = { name = "softmax", features = 8, redraw = 1 } }, ids_of(1)
    local folder = os.tmpname()
    os.remove(folder)
    finally(function() os.execute("rm -r '" .. folder .. "'") end)
    assert(pf.checkpoint.save(folder, { model = model }))
    local opt = pf.optim.sgd(model, { lr = 0 })
    do
      local tape <close> = pf.tape()
      local loss = model(ids):cross_entropy(ids)
      opt:step {} -- no gradients yet: the projection alone moves
      assert.raises("changed in place by a redraw", function() tape:backward(loss) end)
    end
    local tape <close> = pf.tape()
    local loss = model(ids):cross_entropy(ids)
    assert(pf.checkpoint.load(folder, { model = model, optimizer = false }))
    assert.raises("changed in place by a load", function() tape:backward(loss) end)
  end)

  it("what a custom kernel's map learns with", function()
    local weight = pf.randn(4, 4)
    local kernel = pf.kernel.custom { map = function(x) return x:matmul(weight):square() + 0.1 end,
                                      parameters = { weight = weight } }
    local q, k, v = pf.randn(1, 2, 6, 4), pf.randn(1, 2, 6, 4), pf.randn(1, 2, 6, 4)
    q:requires_grad()
    local tape <close> = pf.tape()
    local loss = pf.attention.favor(q, k, v, { kernel = kernel, causal = true }):sum()
    weight:fill_(1)
    assert.raises("matmul.*changed in place by fill_", function() tape:backward(loss) end)
  end)
end)

-- ---- writes into the graph -------------------------------------------------------------

describe("a write into what the tape has made", function()
  local function after(write)
    return function()
      local w = pf.tensor { 2, 3 }:requires_grad()
      local tape <close> = pf.tape()
      local m = w * 2
      write(m, w)
      tape:backward((m * 3):sum())
    end
  end
  local made = "was computed on the open tape and changed in place by %s since"

  it("is refused by the next op that reads it", function()
    assert.raises(made:format "fill_", after(function(m) m:fill_(1) end))
    assert.raises(made:format "fill_", after(function(m) m:zero_() end))
    assert.raises(made:format "copy_", after(function(m, w) m:copy_(w * 3) end))
    assert.raises(made:format "copy_", after(function(m) m:copy_(pf.ones(2)) end))
    assert.raises(made:format "an assignment", after(function(m) m[1] = 5 end))
    assert.raises(made:format "an assignment", after(function(m, w) m[1] = w[2] end))
  end)

  it("is refused through views too, and in a tape within", function()
    assert.raises(made:format "fill_", after(function(m) m:slice(1, 1, 1):fill_(1) end))
    assert.raises(made:format "fill_", after(function(m) m:reshape(2, 1):fill_(1) end))
    assert.raises(made:format "fill_", after(function(m)
      local inner <close> = pf.tape()
      m:slice(1, 2, 2):fill_(1)
      assert.is_not_nil(inner)
    end))
  end)

  it("is refused where it is the loss, and where a second run would take it", function()
    local w = pf.ones(1):requires_grad()
    local tape <close> = pf.tape()
    local loss = w * 2
    loss:fill_(1)
    assert.raises("the loss.*changed in place", function() tape:backward(loss) end)
    local m = w * 2
    m:fill_(1)
    assert.raises("recompute: .*changed in place", function()
      pf.recompute(function(x) return x * x end, m)
    end)
  end)

  it("is nobody's concern where it is not read again", function()
    local w = pf.tensor { 2, 3 }:requires_grad()
    local tape <close> = pf.tape()
    local m = w * 2
    local y = (m + 1):sum()
    m:fill_(100)
    tape:backward(y)
    assert.same({ 2, 2 }, w:grad():totable())
  end)
end)

describe("a copy from the graph into a constant", function()
  local lost = "that gradient would be lost.*detach"

  it("is refused by the next op that reads it", function()
    local w, buffer = pf.ones(2):requires_grad(), pf.zeros(2)
    local tape <close> = pf.tape()
    buffer:copy_(w * 3)
    assert.raises("mul: .*" .. lost, function() return buffer * w end)
    assert.raises("tanh: .*" .. lost, function() return buffer:tanh() end)
    local second = pf.zeros(2)
    second:copy_(buffer)
    assert.raises(lost, function() return second + 1 end)
    buffer:copy_(w)
    assert.raises(lost, function() return buffer + 1 end)
    buffer:copy_((w * 3):detach())
    tape:backward((buffer * w):sum())
    assert.same({ 3, 3 }, w:grad():totable())
  end)

  it("is fine outside, once backward is through, and for later tapes", function()
    local student, teacher = pf.tensor { 1, 2 }:requires_grad(), pf.zeros(2)
    teacher:copy_(student)
    for _ = 1, 3 do
      local tape <close> = pf.tape()
      local loss = (student * teacher):sum()
      tape:backward(loss)
      teacher:copy_(student)
      teacher:copy_(teacher * 0.5)
    end
    assert.is_true(teacher:sum():item() > 0)
    teacher:copy_(student)
    local tape <close> = pf.tape()
    teacher[1] = 5 -- the copy is older than the tape
    student:clear_grad()
    tape:backward((student * teacher):sum())
    assert.equal(5, student:grad()[1]:item())
  end)
end)

-- ---- loops that are right --------------------------------------------------------------

describe("training loops", function()
  it("with accumulation, a step inside the scope, reused buffers raise nothing", function()
    for _, option in ipairs { {}, { recompute = true }, { reversible = true },
                              { kernel = { name = "softmax_plus", features = 8, redraw = 2 } } } do
      local model = small(option)
      local opt = pf.optim.adamw(model, { lr = 1e-3 })
      local ids, target = pf.zeros(2, 12, i32), pf.zeros(2, 12, i32)
      for step = 1, 3 do
        for part = 1, 2 do
          ids:copy_(ids_of(step * part))
          target:copy_(ids)
          local tape <close> = pf.tape()
          local loss = model(ids, { training = true, step = step }):cross_entropy(target)
          tape:backward(loss)
          if part == 2 then opt:step { clip = 1 } end
          ids:fill_(0)
        end
      end
    end
  end)

  it("with a gradient as a constant, and one changed by hand", function()
    local w = pf.tensor { 1, 2 }:requires_grad()
    local opt = pf.optim.sgd({ w = w }, { lr = 0.5 })
    local tape <close> = pf.tape()
    tape:backward((w * w):sum())
    w:grad():copy_(w:grad() * 0.5)
    opt:step {}
    assert.same({ 0.5, 1 }, w:totable())
  end)
end)

describe("a function that is run again", function()
  it("may not give other numbers, be it one in a thousand, and may give NaN", function()
    local w, n = pf.ones(1000):requires_grad(), 0
    local function f(x)
      n = n + 1
      local one = pf.zeros(1000)
      one[777] = n * 1e-3
      return x * 2 + one
    end
    local tape <close> = pf.tape()
    local y = pf.recompute(f, w):sum()
    assert.raises("recompute: the function gave other numbers", function() tape:backward(y) end)
    assert.is_nil(w:grad())
    local again <close> = pf.tape()
    again:backward(pf.recompute(function(x) return x * (0 / 0) end, w):sum())
    assert.is_not_nil(w:grad())
  end)

  it("may write a buffer of its own before it reads it", function()
    local w, buffer = pf.tensor { 2, 3 }:requires_grad(), pf.zeros(2)
    local function f(x)
      buffer:fill_(4)
      return x * buffer
    end
    local tape <close> = pf.tape()
    local y = (pf.recompute(f, w) + pf.recompute(f, w)):sum()
    tape:backward(y)
    assert.same({ 8, 8 }, w:grad():totable())
  end)

  it("may not read a buffer and then write it", function()
    local w, buffer = pf.tensor { 2, 3 }:requires_grad(), pf.ones(2)
    local tape <close> = pf.tape()
    local y = pf.recompute(function(x)
      local product = x * buffer
      buffer:fill_(4)
      return product
    end, w):sum()
    assert.raises("run again.*changed in place by fill_", function() tape:backward(y) end)
  end)
end)
