-- arithmetic_spec.lua - what formulas don't say of comparisons, choices, whole numbers, running
-- sums and changes in place: numbers and operators beside tensors, what is refused and in which
-- words, what a tape makes of it, and the same bits for any number of threads and any processor.
local pf = require "performer"
local child = require "spec.support.child"
require "spec.support"

local i32 = { dtype = "i32" }
local NAN, INF = 0 / 0, math.huge

--- The gradients of the sum of f(inputs...), as tables.
local function grads(f, ...)
  local inputs, lists = { ... }, {}
  for _, x in ipairs(inputs) do x:requires_grad() end
  do
    local tape <close> = pf.tape()
    tape:backward(f(table.unpack(inputs)):sum())
  end
  for i, x in ipairs(inputs) do lists[i] = x:grad():totable() end
  return table.unpack(lists)
end

describe("comparisons", function()
  it("take numbers on either side, as functions and methods, and answer in i32", function()
    local t = pf.tensor { 1, 2, 3 }
    assert.same({ 0, 0, 1 }, t:gt(2):totable())
    assert.same({ 1, 0, 0 }, pf.gt(2, t):totable())
    assert.same({ 0, 1, 1 }, pf.ge(t, 2):totable())
    assert.same({ 0, 1, 0 }, pf.tensor({ 4, 5, 6 }, i32):eq(5):totable())
    assert.equal("i32", t:lt(2):dtype())
    local column = pf.tensor { { 1 }, { 2 } }
    assert.same({ { 0, 1 }, { 0, 0 } }, column:lt(pf.tensor { 1, 2 }):totable())
    local ends = pf.tensor({ -2147483648, 2147483647 }, i32)
    assert.same({ 1, 0 }, ends:eq(-2147483648):totable())
    assert.same({ 0, 1 }, ends:eq(2147483647):totable())
    assert.raises("1.5 can't go with an i32 tensor", function() pf.arange(2, i32):lt(1.5) end)
    assert.raises("2147483648 can't go", function() ends:lt(2147483648) end)
  end)

  it("leave == to tensors themselves", function()
    local t = pf.ones(2)
    assert.is_true(t == t)
    assert.is_false(t == pf.ones(2))
    assert.equal(1, t:eq(pf.ones(2)):all():item())
    for _, f in ipairs { function() return t < 1 end, function() return 1 >= t end,
                         function() return t <= t end } do
      assert.raises("one boolean; of tensors t:lt%(u%)", f)
    end
  end)

  it("of two dtypes are refused, and cast is named", function()
    assert.raises("lt: a %[2%] is f32 and b %[2%] is i32; cast makes one dtype of them",
      function() return pf.ones(2):lt(pf.arange(2, i32)) end)
    assert.raises("add: .*cast makes one dtype",
      function() return pf.ones(2) + pf.arange(2, i32) end)
  end)

  it("have no gradient, and open no way to one", function()
    local w = pf.tensor { 1, 2 }:requires_grad()
    local tape <close> = pf.tape()
    local keep = w:gt(1)
    tape:backward((w * keep:cast "f32"):sum())
    assert.same({ 0, 1 }, w:grad():totable())
  end)

  it("and logic make masks that where and attention take", function()
    local x = pf.tensor { -3, NAN, 1, INF, 5 }
    local fine = x:isfinite():logical_and(x:gt(-1))
    assert.same({ 0, 0, 1, 0, 1 }, fine:totable())
    assert.same({ 1, 1, 0, 1, 0 }, fine:logical_not():totable())
    assert.equal(1, fine:any():item())
    assert.equal(0, fine:all():item())
    assert.equal(2, fine:sum():item())
    local q = pf.randn(1, 1, 4, 2)
    local mask = pf.tensor({ { 3, 4, 0, 9 } }, i32):ne(0)
    assert.same({ 1, 1, 4, 2 }, pf.attention.exact(q, q, q, { mask = mask }):shape())
    assert.raises("any: x %[2%] is f32, must be i32; a comparison, as ne%(x, 0%)",
      function() pf.ones(2):any() end)
  end)
end)

describe("where", function()
  it("lets no NaN through that was not taken, forward and backward", function()
    local x = pf.tensor { 4, -1, 0, 9 }
    local function f(t) return pf.where(t:gt(0), t:sqrt(), pf.zeros(1)) end
    assert.same({ 2, 0, 0, 3 }, f(x):totable())
    -- sqrt itself has no gradient at -1: the double where keeps it out of reach.
    local function safe(t)
      local good = t:gt(0)
      return pf.where(good, pf.where(good, t, pf.ones(1)):sqrt(), pf.zeros(1))
    end
    local dx = grads(safe, x)
    assert.same({ 0.25, 0, 0 }, { dx[1], dx[2], dx[3] })
    local bad = pf.full({ 3 }, NAN)
    local da, db = grads(function(a, b) return pf.where(pf.tensor({ 1, 0, 1 }, i32), a, b) end,
      pf.tensor { 1, 2, 3 }, bad)
    assert.same({ { 1, 0, 1 }, { 0, 1, 0 } }, { da, db })
  end)

  it("takes a number where a tensor is, and sums what was stretched", function()
    local c = pf.tensor({ { 1, 0 }, { 0, 0 } }, i32)
    assert.same({ { 7.5, 1 }, { 1, 1 } }, pf.where(c, 7.5, pf.ones(2, 2)):totable())
    assert.same({ { 7.5, 0 }, { 0, 0 } }, pf.where(c, 7.5, 0):totable())
    assert.equal("i32", pf.where(c, pf.arange(2, i32), 9):dtype())
    local da, db = grads(function(a, b) return pf.where(c, a, b) end, pf.tensor(3),
      pf.tensor { 1, 2 })
    assert.equal(1, da)
    assert.same({ 1, 2 }, db)
  end)
end)

describe("cast", function()
  it("cuts toward zero, and refuses what the dtype can't hold", function()
    assert.same({ 1, -1, 0 }, pf.tensor({ 1.9, -1.9, 0.5 }):cast("i32"):totable())
    assert.raises("cast: element 3 of x %[3%] is nan, which i32 cannot hold",
      function() pf.tensor({ 1, 2, NAN }):cast "i32" end)
    assert.raises("no dtype 'i64'", function() pf.ones(1):cast "i64" end)
    local x = pf.tensor { { 1, 3e9 }, { 2, 4 } }
    assert.raises("element 3 of x %[2, 2%] is 3e%+09", function() x:transpose():cast "i32" end)
    assert.same({ 0, 1 }, pf.tensor({ NAN, 1 }):clamp(0, 1):isnan():logical_not():totable())
  end)

  it("lets the gradient of f32 through, and makes a tensor of its own", function()
    assert.same({ 1, 1 }, (grads(function(x) return x:cast "f32" end, pf.tensor { 1, 2 })))
    local t = pf.ones(2)
    local u = t:cast "f32"
    t:fill_(5)
    assert.same({ 1, 1 }, u:totable())
  end)
end)

describe("whole numbers", function()
  it("divide by // and %, as Lua's do", function()
    local a, b = { 7, -7, 7, -7, -2147483648 }, { 3, 3, -3, -3, 7 }
    local t, u = pf.tensor(a, i32), pf.tensor(b, i32)
    local q, r = (t // u):totable(), (t % u):totable()
    for i = 1, #a do
      assert.equal(a[i] // b[i], q[i])
      assert.equal(a[i] % b[i], r[i])
    end
    assert.same({ 3, 4 }, (pf.tensor({ 7, 8 }, i32) // 2):totable())
    assert.same({ 1, 0 }, (pf.tensor({ 7, 8 }, i32) % 2):totable())
    assert.same({ 2, -3 }, (pf.tensor { 5.5, -5.5 } // 2):totable())
    assert.same({ 1.5, 0.5 }, (pf.tensor { 5.5, -5.5 } % 2):totable())
    assert.raises("floor_divide: b %[%] has a 0", function() return t // 0 end)
    assert.raises("div: a %[5%] is i32, must be f32; cast makes it so, floor_divide divides whole",
      function() return t / u end)
  end)

  it("wrap around where they are added, and are refused where they are summed", function()
    local most = pf.tensor({ 2147483647, 1 }, i32)
    assert.same({ -2147483648, 2 }, (most + 1):totable())
    assert.raises("sum: of x %[2%] it leaves i32", function() most:sum() end)
    assert.raises("cumsum: of x %[2%] a sum leaves i32", function() most:cumsum() end)
    assert.equal(2147483648, most:cast("f32"):sum():item())
    assert.equal(1073741824, most:mean():item())
    assert.equal("f32", most:mean():dtype())
    assert.equal(2147483647, most:max():item())
    assert.equal("i32", most:max():dtype())
    assert.equal(2, most:argmin():item())
  end)

  it("refuse positions that no i32 holds, before they ask for memory", function()
    local one = pf.ones(1, 1):requires_grad()
    local long = one:expand(1 << 16, 1 << 15) -- 2^31 elements, together
    for _, name in ipairs { "argmax", "argmin" } do
      assert.raises(name .. ": .*no i32 holds the positions of so many elements",
        function() return long[name](long) end)
    end
    local row = one:detach():expand(1, 1 << 31)
    for _, name in ipairs { "argmax", "argmin", "argsort", "sort" } do
      assert.raises(name .. ": .*no i32 holds the positions of so many elements",
        function() return row[name](row, 2) end)
    end
    local tape <close> = pf.tape() -- keeps where an extreme was found
    local y = one:expand(1 << 16, 1 << 15)
    assert.raises("max: .*no i32 holds the positions", function() return y:max() end)
    assert.raises("min: .*no i32 holds the positions", function() return y:min() end)
    tape:close()
  end)

  it("are reduced at once where a view repeats one, be it for ever", function()
    local function of(x, n) return pf.tensor({ { x } }, i32):expand(1, n) end
    local most = 1 << 40
    for _, x in ipairs { -3, 0, 1 } do
      for name, want in pairs { max = x, min = x, mean = x, argmax = 1, argmin = 1,
        any = x ~= 0 and 1 or 0, all = x ~= 0 and 1 or 0 } do
        assert.equal(want, of(x, most)[name](of(x, most), 2):item(), name)
      end
    end
    assert.equal(0, of(0, most):sum(2):item())
    assert.equal(-2147483648, of(-2, 1 << 30):sum(2):item())
    assert.raises("it leaves i32", function() return of(1, most):sum(2) end)
    assert.raises("it leaves i32", function() return of(2147483647, most):sum(2) end)
    for x, want in pairs { [0] = { 0, 0 }, [1] = { 1, 1 }, [-1] = { 1, -1 } } do
      assert.equal(want[1], of(x, most):prod(2):item())
      assert.equal(want[2], of(x, most + 1):prod(2):item())
    end
    assert.equal(-2147483648, of(-2, 31):prod(2):item())
    assert.raises("it leaves i32", function() return of(-2, most + 1):prod(2) end)
    assert.same({ 0 }, of(5, 0):sum(2):totable())
    assert.same({ 1 }, of(5, 0):prod(2):totable())
  end)

  it("give positions from argmin, of rows and of all", function()
    assert.same({ 1, 2 }, pf.tensor({ { 1, 3, 2 }, { 9, 0, 1 } }):argmin(2):totable())
    assert.equal(5, pf.tensor({ { 1, 3, 2 }, { 9, 0, 1 } }):argmin():item())
  end)
end)

describe("ties and kinks", function()
  it("share the gradient as the docs say", function()
    local a, b = grads(pf.minimum, pf.tensor { 1, 2, 3 }, pf.tensor { 1, 3, 2 })
    assert.same({ { 0.5, 1, 0 }, { 0.5, 0, 1 } }, { a, b })
    assert.same({ 1, 0, 0 }, (grads(function(x) return x:min() end, pf.tensor { 1, 1, 2 })))
    assert.same({ 0, 1, 1, 1, 0 }, (grads(function(x) return x:clamp(-1, 1) end,
      pf.tensor { -2, -1, 0, 1, 2 })))
    assert.same({ 1, 1, 0 }, (grads(function(x) return x:clamp { max = 1 } end,
      pf.tensor { -9, 1, 2 })))
  end)

  it("of norms and deviations that are 0 have the gradient 0", function()
    for _, p in ipairs { 1, 2, 3, INF } do
      assert.same({ 0, 0 }, (grads(function(x) return x:norm(p) end, pf.zeros(2))), tostring(p))
    end
    assert.same({ 0, 0 }, (grads(function(x) return x:std() end, pf.tensor { 3, 3 })))
    assert.same({ 0, -1, 0 }, (grads(function(x) return x:norm(INF) end, pf.tensor { 1, -2, 2 })))
    assert.same({ 0, 0, 0 }, (grads(function(x) return x:floor() + x:sign() end,
      pf.tensor { 1.5, -2, 0 })))
  end)

  it("are NaN where the number is", function()
    for _, f in ipairs { pf.sign, pf.floor, pf.clamp, pf.norm, pf.std, pf.min,
                         function(x) return x:cumsum() end } do
      local dx, seen = grads(f, pf.tensor { 1, NAN, 2 }), false
      local y = f(pf.tensor { 1, NAN, 2 }):isnan():any():item()
      for _, x in ipairs(dx) do seen = seen or x ~= x end
      assert.equal(1, y)
      assert.is_true(seen or dx[1] == 3) -- a running sum has slopes that read no number
    end
  end)
end)

describe("running sums", function()
  it("have the reversed sum for a gradient, and never the bits of what follows", function()
    local w = pf.tensor { 1, 10, 100 }
    assert.same({ 111, 110, 100 }, (grads(function(x) return x:cumsum() * w end,
      pf.tensor { 3, 4, 5 })))
    local x = pf.randn(1000)
    local whole = x:cumsum()
    for _, n in ipairs { 1, 7, 500 } do
      assert.bits_equal(whole:slice(1, 1, n), x:slice(1, 1, n):cumsum())
    end
    -- In double, rounded once: a sum in single precision would have stopped at 2^24.
    assert.equal(16777216 + 64, pf.concat({ pf.full({ 1 }, 16777216), pf.ones(64) }, 1):cumsum()[65]
      :item())
  end)

  it("of squares far from 0 keep their digits", function()
    local x = pf.tensor { 1e6, 1e6 + 1, 1e6 + 2 }
    assert.equal(1, x:var():item())
    assert.near(2 / 3, x:var({ unbiased = false }):item(), 1e-7)
    assert.equal(1, x:std():item())
    assert.raises("std: x is %[1%]; there is no unbiased std of one element",
      function() pf.ones(1):std() end)
  end)
end)

-- ---- in place --------------------------------------------------------------------------

describe("arithmetic in place", function()
  it("gives what the op gives, and the tensor itself", function()
    local t, u = pf.tensor { { 1, 2 }, { 3, 4 } }, pf.tensor { 10, 20 }
    assert.is_true(t:add_(u) == t)
    assert.same({ { 11, 22 }, { 13, 24 } }, t:totable())
    assert.same({ { 1, 2 }, { 3, 4 } }, t:sub_(u):totable())
    assert.same({ { 2, 4 }, { 6, 8 } }, t:mul_(2):totable())
    assert.same({ { 1, 2 }, { 3, 4 } }, t:div_(2):totable())
    assert.same({ { 2, 2 }, { 3, 3 } }, t:clamp_(2, 3):totable())
    assert.same({ 2, 1 }, pf.tensor({ 1, 0 }, i32):add_(1):totable())
  end)

  it("reads what it writes over as it was", function()
    local t = pf.arange(6):reshape(2, 3)
    t:add_(t[1]) -- a row of it, broadcast
    assert.same({ { 0, 2, 4 }, { 3, 5, 7 } }, t:totable())
    local s = pf.arange(5)
    s:slice(1, 2, 5):add_(s:slice(1, 1, 4)) -- parts that overlap
    assert.same({ 0, 1, 3, 5, 7 }, s:totable())
    local m = pf.tensor { { 1, 2 }, { 3, 4 } }
    m:sub_(m:transpose())
    assert.same({ { 0, -1 }, { 1, 0 } }, m:totable())
    m:transpose():mul_(pf.tensor { 1, 5 })
    assert.same({ { 0, -1 }, { 5, 0 } }, m:totable())
  end)

  it("keeps shape and dtype, or is refused and changes nothing", function()
    local t = pf.ones(3)
    assert.raises("add_: a %[3%] would become %[2, 3%], but in place it keeps its shape",
      function() t:add_(pf.ones(2, 3)) end)
    assert.raises("add: a is %[3%], b is %[2%]", function() t:add_(pf.ones(2)) end)
    assert.raises("mul: .*cast makes one dtype", function() t:mul_(pf.arange(3, i32)) end)
    assert.raises("div: .*must be f32", function() pf.arange(3, i32):div_(2) end)
    assert.raises("add: b is missing", function() t:add_() end)
    assert.same({ 1, 1, 1 }, t:totable())
    assert.is_nil(rawget(pf, "add_"))
    local dead
    do
      local tape <close> = pf.tape()
      dead = t * 2
      assert.is_not_nil(tape)
    end
    assert.raises("add_: the tensor's tape has closed", function() dead:add_(1) end)
  end)

  it("under a tape is a change as any other: never another gradient in silence", function()
    local w, buffer = pf.tensor { 2, 3 }:requires_grad(), pf.zeros(2)
    local tape <close> = pf.tape()
    local m = w * w
    assert.raises("add_: x %[2%] requires a gradient, and backward of mul .* would read it again",
      function() w:add_(1) end)
    tape:backward(m:sum())
    assert.same({ 4, 6 }, w:grad():totable())
    local second <close> = pf.tape()
    local made = w * 2
    made:mul_(3)
    assert.raises("was computed on the open tape and changed in place by mul_ since",
      function() return made + 1 end)
    buffer:add_(w * 3)
    assert.raises("that gradient would be lost", function() return buffer * w end)
    buffer:zero_()
    buffer:sub_(1):sub_(w)
    assert.raises("that gradient would be lost", function() return buffer:tanh() end)
    buffer:zero_()
    assert.same({ 0, 0 }, (buffer * w):totable())
    assert.is_not_nil(second)
  end)

  it("steps a parameter between tapes", function()
    local w = pf.tensor { 1, 2 }:requires_grad()
    for _ = 1, 2 do
      do
        local tape <close> = pf.tape()
        tape:backward((w * w):sum())
      end
      w:sub_(w:grad() * 0.25)
      w:clear_grad()
    end
    assert.same({ 0.25, 0.5 }, w:totable())
  end)
end)

-- ---- threads and processors --------------------------------------------------------------

local everything = [[
  pf.seed(11)
  local texts = {}
  local function keep(...)
    for _, t in ipairs { ... } do texts[#texts + 1] = t:tobytes() end
  end
  local x, y = pf.randn(300, 701), pf.randn(300, 1)
  local w = pf.randn(701):requires_grad()
  local ids = (x * 1000):cast "i32"
  keep(x:lt(y), ids, ids % 7 + 1, ids // 3, pf.where(ids:gt(0), x, y), x:clamp(-1, 1))
  keep(x:floor(), x:round(), x:sign(), x:rsqrt(), x:reciprocal(), x:minimum(y))
  for _, t in ipairs { x, x:transpose(), x:slice(2, 3, 690), ids } do
    for dim = 1, 2 do
      keep(t:min(dim), t:argmin(dim), t:cumsum(dim))
      if t:dtype() == "f32" then keep(t:var(dim), t:std(dim), t:norm(3, dim), t:norm(1, dim)) end
      if t:dtype() == "i32" then keep(t:sum(dim), t:mean(dim), t:ne(0):any(dim)) end
    end
  end
  keep(x:var(), x:norm(), ids:mean(), ids:min())
  local tape <close> = pf.tape()
  local z = x * w
  local loss = z:cumsum(1):clamp(-3, 3):sum() + z:std(2):sum() + z:norm(2, 1):sum()
    + pf.where(ids:lt(5), z, w):minimum(1):sum() + (w:slice(1, 1, 9) + 2):prod() + z:min(1):sum()
  tape:backward(loss)
  keep(w:grad())
  local sum = 0
  for _, text in ipairs(texts) do
    for i = 1, #text - 7, 8 do sum = sum * 31 + string.unpack("<i8", text, i) end
  end
  print(#texts, sum)
]]

describe("bits", function()
  it("are those of one thread on any number", function()
    local one = child.run(everything, "{ threads = 1 }")
    for _, n in ipairs { 2, 5 } do
      assert.equal(one, child.run(everything, ("{ threads = %d }"):format(n)))
    end
  end)

  it("are the same on every level of processor where no vector verb rounds", function()
    local exact = everything:gsub("local tape <close>.*keep%(w:grad%(%)%)", "")
    local best = child.run("print(pf.info().cpu)", "{}", { PF_CPU = false }):match "%w+"
    local generic = child.run(exact, "{ threads = 1 }", { PF_CPU = "generic" })
    assert.equal(generic, child.run(exact, "{ threads = 1 }", { PF_CPU = best }))
  end)
end)
