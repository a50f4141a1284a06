-- ops_spec.lua - every op of the engine's table against the same formula in double precision
-- (support/oracle.lua), in several memory layouts; its gradients, element by element against
-- differences of the oracle and once more by pf.check.gradient; and what its errors say. The
-- spec loops over the table: an op without cases (support/cases.lua) fails.
local pf = require "performer"
local array = require "spec.support.array"
local cases = require "spec.support.cases"
local oracle = require "spec.support.oracle"
local op_calls = require "spec.support.op_calls"

local layouts = { "plain", "transposed", "sliced" }
local call, tensors_of, text_of = op_calls.call, op_calls.tensors_of, op_calls.text_of
local leaves_of = op_calls.leaves_of

local function arrays_of(...)
  local arrays = {}
  for i, t in ipairs { ... } do arrays[i] = array.of(t) end
  return arrays
end

-- ---- forward ---------------------------------------------------------------------------

local function check_forward(op, entry, case)
  local want = oracle[op.name](case[1], case[2] or {})
  for _, layout in ipairs(layouts) do
    local got = arrays_of(call(op, tensors_of(case, layout), case[2]))
    if entry.finish then got = entry.finish(got) end
    assert.are.equal(#want, #got, text_of(op, case) .. ": number of outputs")
    for o, y in ipairs(want) do
      local absolute = case.absolute or 5e-7
      if not case.relative or absolute > 1e-30 then
        absolute = absolute * math.max(array.largest(y), 1e-30)
      end
      local problem = array.differs(got[o], y, case.relative or 1e-6, absolute)
      if problem then
        error(("%s (%s), output %d: %s"):format(text_of(op, case), layout, o, problem), 0)
      end
    end
  end
end

-- ---- gradients -------------------------------------------------------------------------

--- Fixed weights that make a number of the outputs; whole numbers, positions, have no slope.
local function weights_for(outputs)
  local random, weights = array.random(99), {}
  for o, y in ipairs(outputs) do
    weights[o] = y.dtype ~= "i32" and random:normals(y.shape) or nil
  end
  return weights
end

local function weighted(outputs, weights)
  local sum = 0
  for o, y in ipairs(outputs) do
    for i = 1, weights[o] and #y or 0 do sum = sum + y[i] * weights[o][i] end
  end
  return sum
end

--- d(weighted outputs)/dx by central differences of the oracle, for one input array x.
local function differences(op, case, x, weights)
  return array.new(x.shape, function(i)
    local kept, h = x[i], 1e-5 * math.max(1, math.abs(x[i]))
    x[i] = kept + h
    local up = weighted(oracle[op.name](case[1], case[2] or {}), weights)
    x[i] = kept - h
    local down = weighted(oracle[op.name](case[1], case[2] or {}), weights)
    x[i] = kept
    return (up - down) / (2 * h)
  end)
end

--- The tape's gradients of the weighted outputs in every layout.
local function check_gradients(op, case)
  local weights = weights_for(oracle[op.name](case[1], case[2] or {}))
  local wanted = {}
  for _, layout in ipairs(layouts) do
    local tensors = tensors_of(case, layout)
    local leaves = leaves_of(case, tensors)
    if #leaves == 0 then return end -- whole numbers
    for _, leaf in ipairs(leaves) do leaf.t:requires_grad() end
    do
      local tape <close> = pf.tape()
      local loss
      for o, y in ipairs { call(op, tensors, case[2]) } do
        local part = weights[o] and (y * array.tensor(weights[o])):sum()
        loss = loss and part and loss + part or loss or part
      end
      tape:backward(loss)
    end
    for i, leaf in ipairs(leaves) do
      wanted[i] = wanted[i] or differences(op, case, leaf.x, weights)
      local want, grad = wanted[i], leaf.t:grad()
      local got = grad and array.of(grad) or array.new(leaf.x.shape)
      local problem = array.differs(got, want, 1e-4, 2e-5 * math.max(array.largest(want), 0.05))
      if problem then
        error(("%s (%s), gradient of %s: %s"):format(text_of(op, case), layout, leaf.name,
          problem), 0)
      end
    end
  end
end

--- pf.check.gradient, as a user would call it, of every output (of attention that gives its state,
--- of the first): how many directions it could judge.
local function check_by_user(op, entry, case)
  local tensors = tensors_of(case, "plain")
  local inputs, judged = {}, 0
  for i, leaf in ipairs(leaves_of(case, tensors)) do inputs[i] = leaf.t end
  if #inputs == 0 or inputs[1]:numel() == 0 then return 0 end
  local results = { call(op, tensors, case[2]) }
  local outputs = entry.finish and 1 or #results
  for o = 1, results[outputs]:dtype() == "i32" and outputs - 1 or outputs do
    local report = pf.check.gradient(function() return (select(o, call(op, tensors, case[2]))) end,
      inputs, { raise = false })
    assert.is_true(report.worst <= 1e-3, ("%s, output %d: off by %g"):format(text_of(op, case), o,
      report.worst))
    for _, input in ipairs(report.inputs) do judged = judged + input.judged end
  end
  return judged
end

--- At most about 6 of the smooth cases, spread over the list, since the differences of the oracle
--- have seen them all; and those whose slopes alone are held.
local function some_smooth(good)
  local smooth, some = {}, {}
  for _, case in ipairs(good) do
    local list = case.grad == "slopes" and some or smooth
    if case.grad ~= false then list[#list + 1] = case end
  end
  for i = 1, #smooth, math.max(1, math.ceil(#smooth / 6)) do some[#some + 1] = smooth[i] end
  return some
end

-- ---- errors ----------------------------------------------------------------------------

local function check_error(op, case)
  local inputs = tensors_of(case, "plain")
  local fine, message = pcall(call, op, inputs, case[2])
  assert.is_false(fine, text_of(op, case) .. ": no error")
  message = tostring(message)
  for _, text in ipairs { op.name .. ":", table.unpack(case, 3) } do
    if not message:find(text, 1, true) then
      error(("%s: the error does not say '%s': %s"):format(text_of(op, case), text, message), 0)
    end
  end
end

-- ---- the loop --------------------------------------------------------------------------

for _, op in ipairs(pf.ops()) do
  local entry = cases[op.name]

  describe("op " .. op.name, function()
    it("has cases, and a formula to be held against", function()
      assert.is_table(entry, "no entry in spec/support/cases.lua")
      assert.is_true(entry.custom or #entry.good > 0)
      assert.is_true(entry.custom or oracle[op.name] ~= nil,
        "no formula in spec/support/oracle.lua")
      assert.is_true(#entry.bad > 0, "no case of an error")
    end)
    if not entry then return end

    it("gives what its formula gives", function()
      for _, case in ipairs(entry.good) do check_forward(op, entry, case) end
    end)

    it("says what is wrong: op, inputs, shapes, dimension", function()
      for _, case in ipairs(entry.bad) do check_error(op, case) end
    end)

    if not op.differentiable or entry.custom then return end

    it("has the gradient of its formula", function()
      local checked = 0
      for _, case in ipairs(entry.good) do
        if case.grad == nil then
          check_gradients(op, case)
          checked = checked + 1
        end
      end
      assert.is_true(checked > 0)
    end)

    if entry.flat then return end
    it("passes pf.check.gradient", function()
      local judged = 0
      for _, case in ipairs(some_smooth(entry.good)) do
        local by_case = check_by_user(op, entry, case)
        assert.is_true(case.grad == nil or by_case > 0, text_of(op, case) .. ": none was judged")
        judged = judged + by_case
      end
      assert.is_true(judged > 0, "every direction was skipped")
    end)
  end)
end

it("every entry of the cases is an op", function()
  local known = {}
  for _, op in ipairs(pf.ops()) do known[op.name] = true end
  for name in pairs(cases) do assert.is_true(known[name], name) end
end)

-- ---- what formulas don't say -----------------------------------------------------------

describe("dropout", function()
  it("keeps a share 1 - p, scaled, and its gradient is its mask", function()
    local x = pf.full({ 100, 200 }, 3):requires_grad()
    local y
    do
      local tape <close> = pf.tape()
      local out = x:dropout(0.25)
      y = array.of(out)
      tape:backward(out:sum())
    end
    local grad, kept = array.of(x:grad()), 0
    for i = 1, #y do
      if y[i] ~= 0 then kept = kept + 1 end
      assert.are.near(grad[i] * 3, y[i], 1e-6)
      assert.is_true(y[i] == 0 or math.abs(y[i] - 4) < 1e-6)
    end
    assert.are.near(0.75, kept / #y, 5 * math.sqrt(0.25 * 0.75 / #y))
  end)

  it("draws anew every call, the same after the same seed, and nothing for p = 0", function()
    local x = pf.ones(1000)
    pf.seed(5)
    local first, second = x:dropout(0.5):tobytes(), x:dropout(0.5):tobytes()
    assert.are_not.equal(first, second)
    pf.seed(5)
    assert.are.equal(first, x:dropout(0.5):tobytes())
    assert.are.equal(x:tobytes(), x:dropout(0):tobytes())
    assert.are.same({ 0 }, pf.zeros(0):dropout(0.5):shape())
  end)
end)

describe("ties and kinks", function()
  local function grads(f, ...)
    local inputs = { ... }
    for _, x in ipairs(inputs) do x:requires_grad() end
    do
      local tape <close> = pf.tape()
      tape:backward(f(table.unpack(inputs)):sum())
    end
    local lists = {}
    for i, x in ipairs(inputs) do lists[i] = x:grad():totable() end
    return table.unpack(lists)
  end

  it("share the gradient as the docs say", function()
    local a, b = grads(pf.maximum, pf.tensor { 1, 2, 3 }, pf.tensor { 1, 3, 2 })
    assert.are.same({ 0.5, 0, 1 }, a)
    assert.are.same({ 0.5, 1, 0 }, b)
    assert.are.same({ 0, 1, 0 }, grads(function(x) return x:max() end, pf.tensor { 1, 2, 2 }))
    for _, name in ipairs { "relu", "requ", "abs" } do
      assert.are.same({ 0 }, grads(pf[name], pf.tensor { 0 }), name)
    end
    assert.are.same({ 0, 3 }, (grads(pf.pow, pf.tensor { 0, 1 }, pf.tensor { 2, 3 })))
  end)

  it("an input that stands twice gets both gradients", function()
    assert.are.same({ 6 }, grads(function(x) return x * x end, pf.tensor { 3 }))
    assert.are.same({ 2 }, grads(function(x) return pf.concat({ x, x }, 1) end, pf.tensor { 3 }))
  end)
end)

describe("concat", function()
  it("takes more tensors than one call of the op does", function()
    local list, want = {}, {}
    for i = 1, 40 do list[i], want[i] = pf.full({ 1 }, i), i end
    assert.are.same(want, pf.concat(list, 1):totable())
  end)
end)

describe("matmul and linear", function()
  it("give a row the same bits whatever rows follow it", function()
    local random = array.random(3)
    local a, b = random:normals { 200, 37 }, array.tensor(random:normals { 37, 19 })
    local w = array.tensor(random:normals { 19, 37 })
    local whole_product = array.tensor(a):matmul(b)
    local whole_linear = pf.linear(array.tensor(a), w)
    for _, n in ipairs { 1, 3, 64, 129 } do
      local part = array.tensor(a):slice(1, 1, n)
      assert.are.equal(whole_product:slice(1, 1, n):tobytes(), part:matmul(b):tobytes())
      assert.are.equal(whole_linear:slice(1, 1, n):tobytes(), pf.linear(part, w):tobytes())
    end
  end)

  it("activate with the bits of the op that does it alone, forward and backward", function()
    local alone = { gelu = "gelu", gelu_tanh = "gelu_tanh", relu = "relu", silu = "silu",
      square_relu = "requ" }
    local function run(f)
      local x = pf.randn(150, 37):requires_grad()
      local w, b = pf.randn(60, 37):requires_grad(), pf.randn(60):requires_grad()
      local tape <close> = pf.tape()
      local y = f(x, w, b)
      tape:backward((y * y):sum())
      return y:tobytes() .. x:grad():tobytes() .. w:grad():tobytes() .. b:grad():tobytes()
    end
    for act, op in pairs(alone) do
      pf.seed(5)
      local fused = run(function(x, w, b) return pf.linear(x, w, b, { act = act }) end)
      pf.seed(5)
      local apart = run(function(x, w, b) return pf[op](pf.linear(x, w, b)) end)
      assert.is_true(fused == apart, act)
    end
  end)
end)
