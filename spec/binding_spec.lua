-- binding_spec.lua - the Lua surface: tensors in and out, ops from the table, tapes, the
-- engine, plain data, and errors that point at the user's line. The numbers of ops and
-- attention have specs of their own.
local pf = require "performer"
local support = require "spec.support"

local i32 = { dtype = "i32" }

--- The line of the caller, for errors that must point at it.
local function line() return debug.getinfo(2, "l").currentline end

describe("tensor", function()
  it("is made from nested tables", function()
    local t = pf.tensor { { 1, 2, 3 }, { 4, 5, 6 } }
    assert.same({ 2, 3 }, { table.unpack(t:shape()) })
    assert.same({ { 1.0, 2.0, 3.0 }, { 4.0, 5.0, 6.0 } }, t:totable())
    assert.equal("f32", t:dtype())
    assert.equal(2, t:rank())
    assert.equal(6, t:numel())
    assert.equal(2, #t)
    assert.equal(3, t:size(2))
    assert.equal(3, t:size(-1))
    assert.equal("[2, 3]", tostring(t:shape()))
  end)

  it("keeps whole numbers whole", function()
    local t = pf.tensor({ 1, -2, 3.0 }, i32)
    assert.equal("i32", t:dtype())
    assert.equal("integer", math.type(t:totable()[1]))
    assert.same({ 1, -2, 3 }, t:totable())
    assert.raises("1.5 is no 32%-bit whole number", function() pf.tensor({ 1.5 }, i32) end)
    assert.raises("no 32%-bit whole number", function() pf.tensor({ 1 << 40 }, i32) end)
  end)

  it("takes scalars and empty lists", function()
    assert.equal(7, pf.tensor(7):item())
    assert.equal(0, pf.tensor(7):rank())
    assert.equal(7, pf.tensor(7):totable())
    assert.same({ 0 }, { table.unpack(pf.tensor({}):shape()) })
    assert.same({}, pf.tensor({}):totable())
  end)

  it("refuses ragged and foreign tables", function()
    assert.raises("lists of dimension 2 have 2 and 1 elements",
      function() pf.tensor { { 1, 2 }, { 3 } } end)
    assert.raises("a number stands where a list", function() pf.tensor { { 1 }, 2 } end)
    assert.raises("an element must be a number, got string", function() pf.tensor { "1" } end)
    assert.raises("got nil", function() pf.tensor(nil) end)
    assert.raises("dtype must be", function() pf.tensor({ 1 }, { dtype = "f64" }) end)
    assert.raises("unknown option 'dtpe' %(did you mean 'dtype'%?%)",
      function() pf.zeros(2, { dtpe = "i32" }) end)
  end)

  it("has constructors with sizes as numbers or as a list", function()
    assert.same({ { 0, 0 } }, pf.zeros(1, 2):totable())
    assert.same({ { 1, 1 } }, pf.ones({ 1, 2 }):totable())
    assert.same({ 2.5, 2.5 }, pf.full({ 2 }, 2.5):totable())
    assert.same({ 0, 1, 2 }, pf.arange(3, i32):totable())
    assert.equal("f32", pf.arange(3):dtype())
    assert.equal("i32", pf.zeros(2, i32):dtype())
    assert.equal(1, pf.zeros():numel())
    assert.raises("a size is negative", function() pf.zeros(-1) end)
    assert.raises("a whole number, got 1.5", function() pf.zeros(1.5) end)
    assert.raises("at most 8 dimensions", function() pf.zeros(1, 1, 1, 1, 1, 1, 1, 1, 1) end)
    assert.raises("options come last", function() pf.zeros(1, i32, 2) end)
  end)

  it("draws the same numbers from the same seed, and new ones each time", function()
    pf.seed(5)
    local a, b, u = pf.randn(100), pf.randn(100), pf.rand(100)
    pf.seed(5)
    assert.bits_equal(a, pf.randn(100))
    assert.is_true(support.distance(a, b) > 0.1)
    for _, x in ipairs(u:totable()) do assert.is_true(x > 0 and x < 1) end
  end)

  it("is indexed from 1, and from the end", function()
    local t = pf.tensor { { 1, 2 }, { 3, 4 }, { 5, 6 } }
    assert.same({ 1, 2 }, t[1]:totable())
    assert.same({ 5, 6 }, t[-1]:totable())
    assert.equal(4, t[2][2]:item())
    assert.raises("position 0, the first dimension has 3 %(they count from 1%)",
      function() return t[0] end)
    assert.raises("position 4", function() return t[4] end)
    assert.raises("scalar tensor has no positions", function() return t[1][1][1] end)
  end)

  it("reads every place of a message counted from 1, as it counts itself", function()
    local x, q = pf.randn(2, 3), pf.randn(1, 2, 3, 4)
    assert.raises("id 7 at position 2 of ids",
      function() x:cross_entropy(pf.tensor({ 1, 7 }, i32)) end)
    assert.raises("dimension 1 stands twice", function() x:permute(1, 1) end)
    assert.raises("tensors%[3%] %[1%] is i32",
      function() pf.concat({ x, x, pf.tensor({ 1 }, i32) }, 1) end)
    assert.raises("query 2 of item 1 has 9", function()
      pf.attention.exact(q, q, q, { limits = pf.tensor({ { 1, 9, 2 } }, i32) })
    end)
    assert.raises("inputs 1 and 2 are the same", function()
      pf.check.gradient(function(a, b) return (a * b):sum() end, { x, x })
    end)
    local nothing, message, code = pf.tokenizer.protein():encode("AC1D")
    assert.is_nil(nothing)
    assert.equal("PF_EFORMAT", code)
    assert.matches("'1' at position 3", message)
  end)

  it("is assigned by position", function()
    local t = pf.zeros(2, 2)
    t[1] = 7
    t[2] = pf.tensor { 1, 2 }
    assert.same({ { 7, 7 }, { 1, 2 } }, t:totable())
    t:transpose(1, 2)[2] = 9 -- a view, whatever its strides
    assert.same({ { 7, 9 }, { 1, 9 } }, t:totable())
    assert.raises("the row has 2 elements, the tensor 3", function() t[1] = pf.zeros(3) end)
    assert.raises("position 3", function() t[3] = 1 end)
  end)

  it("changes in place with an underscore, and says which tensor it is", function()
    local t, u = pf.zeros(2), pf.tensor { 1, 2 }
    assert.is_true(t:copy_(u) == t)
    assert.same({ 1, 2 }, t:totable())
    assert.same({ 3, 3 }, t:fill_(3):totable())
    assert.same({ 0, 0 }, t:zero_():totable())
    assert.is_false(t == u)
    assert.raises("copy_", function() t:copy_ { 1, 2 } end)
    assert.raises("%[3%].*%[2%]", function() t:copy_(pf.zeros(3)) end)
  end)

  it("shows itself", function()
    assert.matches("%[2, 2%] f32", tostring(pf.ones(2, 2)))
    assert.is_true(#tostring(pf.zeros(1000, 1000)) < 2000)
  end)

  it("names the nearest method", function()
    local t = pf.zeros(2)
    assert.raises("no method 'softmx' %(did you mean 'softmax'%?%)", function() t:softmx(1) end)
    assert.raises("item: the tensor has 2 elements", function() t:item() end)
    assert.raises("size: dim is 2, the tensor has 1", function() t:size(2) end)
    assert.raises("size: dim is 0", function() t:size(0) end)
  end)
end)

describe("ops", function()
  local t = pf.tensor { { 1, 2, 3 }, { 4, 5, 6 } }

  it("are all functions and methods", function()
    for _, op in ipairs(pf.ops()) do
      assert.is_function(pf[op.name], op.name)
      assert.is_function(t[op.name], op.name)
      assert.is_true(#op.doc > 10, op.name)
    end
  end)

  it("count dimensions from 1, and from the end", function()
    assert.same({ 5, 7, 9 }, t:sum(1):totable())
    assert.same({ 6, 15 }, t:sum(-1):totable())
    assert.equal(21, t:sum():item())
    assert.same({ { 6 }, { 15 } }, t:sum(2, true):totable())
    assert.same({ { 6 }, { 15 } }, t:sum { dim = 2, keep = true }:totable())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, t:transpose(1, 2):totable())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, t:permute(2, 1):totable())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, t:permute({ 2, 1 }):totable())
    assert.raises("sum: dim is 0; dimensions count from 1", function() t:sum(0) end)
    assert.raises("sum", function() t:sum(3) end)
  end)

  it("slice inclusively", function()
    assert.same({ { 1, 2 }, { 4, 5 } }, t:slice(2, 1, 2):totable())
    assert.same({ { 2, 3 }, { 5, 6 } }, t:slice(2, -2, -1):totable())
    assert.same({ { 4, 5, 6 } }, t:slice(1, 2):totable())
    assert.same({ { 4, 5, 6 } }, t:slice { dim = 1, first = 2, last = 2 }:totable())
    assert.equal(0, t:slice(2, 2, 1):numel())
    assert.raises("from 1 to 4, but dimension 2 has 3 %(positions count from 1%)",
      function() t:slice(2, 1, 4) end)
    assert.raises("from 0 to 2", function() t:slice(2, 0, 2) end)
    assert.raises("from 3 to 1", function() t:slice(2, 3, 1) end)
  end)

  it("give positions from argmax", function()
    assert.same({ 2, 1 }, pf.tensor({ { 1, 3, 2 }, { 9, 0, 1 } }):argmax(2):totable())
    assert.equal(6, t:argmax():item())
  end)

  it("take ids from 0", function()
    local loss = pf.tensor({ { 10, 0, 0 } }):cross_entropy(pf.tensor({ 0 }, i32))
    assert.is_true(loss:item() < 1e-3)
    local rows = pf.embedding(t, pf.tensor({ 1, 0 }, i32))
    assert.same({ { 4, 5, 6 }, { 1, 2, 3 } }, rows:totable())
  end)

  it("reshape with numbers or a list", function()
    assert.same({ 3, 2 }, { table.unpack(t:reshape(3, 2):shape()) })
    assert.same({ 3, 2 }, { table.unpack(t:reshape({ 3, -1 }):shape()) })
    assert.equal(1, pf.tensor({ 4 }):reshape({}):numel())
  end)

  it("concat any number of tensors", function()
    assert.same({ 1, 2, 3, 4 }, pf.concat({ pf.tensor { 1, 2 }, pf.tensor { 3, 4 } }, 1):totable())
    local list, all = {}, {}
    for i = 1, 300 do list[i], all[i] = pf.tensor { i }, i end
    assert.same(all, pf.concat(list, 1):totable())
    assert.raises("concat: each of the list must be a tensor, got number",
      function() pf.concat({ t, 1 }, 1) end)
  end)

  it("mix numbers with tensors", function()
    local a = pf.tensor { 1, 2, 4 }
    assert.near_tensor({ 2, 3, 5 }, a + 1)
    assert.near_tensor({ 2, 3, 5 }, 1 + a)
    assert.near_tensor({ 0, 1, 3 }, a - 1)
    assert.near_tensor({ 1, 0, -2 }, 2 - a)
    assert.near_tensor({ 3, 6, 12 }, a * 3)
    assert.near_tensor({ 0.5, 1, 2 }, a / 2)
    assert.near_tensor({ 4, 2, 1 }, 4 / a)
    assert.near_tensor({ 1, 4, 16 }, a ^ 2)
    assert.near_tensor({ 1, 8, 64 }, a ^ 3)
    assert.near_tensor({ 1, 2 ^ 0.5, 2 }, a ^ 0.5)
    assert.near_tensor({ 2, 4, 16 }, 2 ^ a)
    assert.near_tensor({ -1, -2, -4 }, -a)
    assert.near_tensor({ 2, 2, 4 }, a:maximum(2))
    assert.same({ 2, 3 }, (pf.tensor({ 1, 2 }, i32) + 1):totable())
    assert.same({ -1, -2 }, (-pf.tensor({ 1, 2 }, i32)):totable())
    assert.raises("1.5 can't go with an i32 tensor", function()
      return pf.tensor({ 1 }, i32) + 1.5
    end)
    assert.raises("don't go together", function() return a + {} end)
    -- Dividing is dividing, not multiplying by a rounded inverse.
    assert.bits_equal(a / pf.tensor(3), a / 3)
  end)

  it("say what is wrong, with shapes, at the caller's line", function()
    local at = line() + 1
    local ok, message = pcall(function() return t:matmul(pf.zeros(4, 5)) end)
    assert.is_false(ok)
    assert.matches("binding_spec.lua:" .. at .. ": matmul: a is %[2, 3%], b is %[4, 5%]", message)
    assert.raises("matmul: b is missing", function() t:matmul() end)
    assert.raises("matmul: b must be a tensor, got string", function() t:matmul("x") end)
    assert.raises("sum: unknown option 'dm' %(did you mean 'dim'%?%)",
      function() t:sum { dm = 1 } end)
    assert.raises("sum: dim is given twice", function() t:sum(1, { dim = 1 }) end)
    assert.raises("sum: keep must be true or false, got number", function() t:sum(1, 1) end)
    assert.raises("exp: too many arguments", function() t:exp(1) end)
    assert.raises("reshape: shape is missing", function() t:reshape() end)
    assert.raises("no reduction 'man' %(did you mean 'mean'%?%)", function()
      t:cross_entropy(pf.tensor({ 1, 1 }, i32), { reduction = "man" })
    end)
  end)

  it("take optional inputs by place or by name", function()
    local x, w, b = pf.randn(2, 3), pf.randn(4, 3), pf.randn(4)
    assert.bits_equal(x:linear(w, b), x:linear(w, { bias = b }))
    assert.raises("bias is given twice", function() x:linear(w, b, { bias = b }) end)
    assert.raises("bias must be a tensor", function() x:linear(w, { bias = 1 }) end)
  end)
end)

describe("tape", function()
  it("gives gradients that add up, and are cleared", function()
    local w = pf.tensor({ 1, 2, 3 }):requires_grad()
    assert.is_true(w:wants_grad())
    assert.is_nil(w:grad())
    for _ = 1, 2 do
      local tape <close> = pf.tape()
      tape:backward((w * w):sum())
    end
    assert.near_tensor({ 4, 8, 12 }, w:grad())
    w:clear_grad()
    assert.is_nil(w:grad())
  end)

  it("takes a seed for what is no scalar", function()
    local w = pf.tensor({ 1, 2 }):requires_grad()
    local tape <close> = pf.tape()
    tape:backward(w * 3, pf.tensor { 1, 10 })
    assert.near_tensor({ 3, 30 }, w:grad())
    assert.raises("backward: loss must be a tensor", function() tape:backward(1) end)
  end)

  it("ends its tensors, and detach keeps one", function()
    local w = pf.randn(3):requires_grad()
    local inner, kept
    do
      local tape <close> = pf.tape()
      inner = w:exp()
      kept = inner:detach()
      assert.is_true(inner:alive())
      assert.equal("tape, open", tostring(tape))
    end
    assert.is_false(inner:alive())
    assert.raises("tape has closed", function() return inner:totable() end)
    assert.raises("tape has closed", function() return inner + 1 end)
    assert.raises("tape has closed", function() return inner[1] end)
    assert.matches("dead", tostring(inner))
    assert.same({ 3 }, { table.unpack(inner:shape()) })
    assert.near_tensor(w:exp(), kept)
  end)

  it("closes when an error passes, and inner tapes with the outer one", function()
    local w, seen = pf.randn(2):requires_grad(), nil
    pcall(function()
      local tape <close> = pf.tape()
      seen = tape
      error "away"
    end)
    assert.equal("tape, closed", tostring(seen))
    assert.raises("the tape has closed", function() seen:backward(w) end)
    local outer = pf.tape()
    local within = pf.tape()
    outer:close()
    assert.equal("tape, closed", tostring(within))
    outer:close() -- twice is no harm
    local fresh <close> = pf.tape()
    fresh:backward((w * w):sum())
    assert.near_tensor(w * 2, w:grad())
  end)

  it("that was forgotten closes with the collector", function()
    local w = pf.randn(2):requires_grad()
    do
      local forgotten = pf.tape()
      assert.equal("tape, open", tostring(forgotten))
    end
    collectgarbage()
    collectgarbage()
    local tape <close> = pf.tape()
    tape:backward((w * 2):sum())
    assert.near_tensor({ 2, 2 }, w:grad())
  end)

  it("can't have its leaves assigned", function()
    local w = pf.zeros(2):requires_grad()
    local _ <close> = pf.tape()
    assert.raises("can't change under a tape", function() w[1] = 1 end)
  end)
end)

describe("engine", function()
  it("is open once", function()
    pf.zeros(1)
    assert.raises("already open", function() pf.open { threads = 1 } end)
    local info = pf.info()
    assert.is_true(info.threads >= 1)
    assert.equal(pf.version, info.version)
    assert.is_string(info.cpu)
    assert.is_string(info.blas)
  end)

  it("counts bytes, and lets the collector know of them", function()
    collectgarbage()
    collectgarbage()
    local before = pf.memory().live
    for _ = 1, 200 do pf.zeros(1 << 18) end -- 200 MB in all
    assert.is_true(pf.memory().live - before < 150 << 20)
    assert.matches("live .* MB", tostring(pf.memory()))
    pf.reset_peak()
    assert.is_true(pf.memory().peak < before + (150 << 20))
  end)

  it("opens with options, refuses wrong ones, and reports to a log", function()
    local script = [[
      local pf = require "performer"
      print(pcall(pf.open, { thread = 1 }))
      print(pcall(pf.open, { memory = "lots" }))
      print(pcall(pf.open, { cpu = "mmx" }))
      pf.open { threads = 1, memory = "64M", seed = 9, cpu = "generic" }
      local info = pf.info()
      print(info.threads, info.cpu, info.seed)
      local ok, message = pcall(function()
        local keep = {}
        for i = 1, 100 do keep[i] = pf.zeros(1 << 20) end
      end)
      print(ok, message)
      print(pf.zeros(1 << 20):numel()) -- what was let go is there again
    ]]
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local code, out = support.performer(support.write(folder .. "/open.lua", script))
    assert.equal(0, code)
    assert.matches("unknown option 'thread' %(did you mean 'threads'%?%)", out)
    assert.matches("memory must be a number of bytes", out)
    assert.matches("cpu must be generic", out)
    assert.matches("1\tgeneric\t9", out)
    assert.matches("false\t[^\n]*budget", out)
    assert.matches("1048576\n$", out)
  end)

  it("has a monotonic clock and sorts", function()
    local a = pf.clock()
    assert.is_true(pf.clock() >= a)
    local keys = {}
    for key in pf.sorted { b = 1, a = 2, [2] = 3, [1] = 4 } do keys[#keys + 1] = key end
    assert.same({ 1, 2, "a", "b" }, keys)
  end)

  it("survives being required anew", function()
    local t = pf.ones(2)
    local saved = package.loaded
    for _, name in ipairs { "performer", "performer.core", "performer.nn", "performer.util" } do
      saved[name] = nil
    end
    local again = require "performer"
    assert.near_tensor({ 2, 2 }, again.ones(2) + t)
    saved["performer"] = pf
  end)
end)

describe("json", function()
  it("marks the list as one, whatever else is given", function()
    local list = {}
    assert.are.equal(list, (pf.json.list(list, "text")))
    assert.are.equal("[]", pf.json.encode(list))
    assert.are.equal(string, getmetatable("text").__index)
  end)

  it("goes both ways", function()
    local value = { name = "x", list = { 1, 2.5, true }, empty = pf.json.list(),
      map = { a = false } }
    local text = pf.json.encode(value)
    assert.equal('{"empty":[],"list":[1,2.5,true],"map":{"a":false},"name":"x"}', text)
    assert.equal(text, pf.json.encode(pf.json.decode(text)))
    assert.equal("integer", math.type(pf.json.decode("[3]")[1]))
    assert.equal(pf.json.null, pf.json.decode("[null]")[1])
    assert.equal("null", pf.json.encode(nil))
    assert.matches("\n", pf.json.encode(value, { indent = true }))
  end)

  it("refuses what is no plain data, and reports broken text", function()
    assert.raises("no plain data", function() pf.json.encode { f = print } end)
    assert.raises("no plain data", function() pf.json.encode { t = pf.zeros(1) } end)
    assert.raises("either a list or a map", function() pf.json.encode { 1, a = 2 } end)
    assert.raises("too large a whole number", function() pf.json.encode(1 << 60) end)
    assert.raises("finite", function() pf.json.encode(1 / 0) end)
    local cycle = {}
    cycle.again = cycle
    assert.raises("nest deeper", function() pf.json.encode(cycle) end)
    local value, message, code = pf.json.decode "{"
    assert.is_nil(value)
    assert.is_string(message)
    assert.equal("PF_EFORMAT", code)
  end)
end)
