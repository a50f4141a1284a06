-- Limits from Lua: what is over them raises and goes on raising, however it is caught; without
-- them all goes on as before.
local pf = require "performer"

describe("limits", function()
  after_each(function() pf.limit() end)

  it("are of work, which is the same each time", function()
    local a = pf.randn { 64, 64 }
    local function products(most)
      pf.limit { work = most }
      local n = 0
      while pcall(a.matmul, a, a) do n = n + 1 end
      for _ = 1, 3 do assert.has_error(function() a:matmul(a) end) end
      return n
    end
    local n = products(100000)
    assert.is_true(n > 5 and n < 50)
    assert.equal(n, products(100000))
    pf.limit()
    assert.same({ 64, 64 }, a:matmul(a):shape())
  end)

  it("count what is written, read as bytes and asked of masks, as ops count", function()
    local t, u = pf.zeros(1000, 1000), pf.ones(1000, 1000)
    local none = pf.zeros({ 1000, 1000 }, { dtype = "i32" })
    for name, f in pairs { fill = function() t:fill_(1) end, zero = function() t:zero_() end,
      copy = function() t:copy_(u) end, part = function() t[{ {}, { 1, 999 } }] = 1 end,
      all = function() t[{}] = u end, mask = function() t[none] = 1 end,
      picked = function() return t[none] end, bytes = function() return t:tobytes "u8" end } do
      pf.limit { work = 500000 }
      local n = 0
      while n < 99 and pcall(f) do n = n + 1 end
      assert.is_true(n > 0 and n < 9, name)
      pf.limit()
    end
  end)

  it("refuse at once what is too much", function()
    local a = pf.randn { 1500, 1500 }
    pf.limit { work = 1e6 }
    assert.error_matches(function() a:matmul(a) end, "over the limit of 1000000 units of work")
  end)

  it("are of time", function()
    local a = pf.randn { 256, 256 }
    pf.limit { seconds = 0.05 }
    local began = pf.clock()
    while pcall(a.matmul, a, a) do end
    assert.is_true(pf.clock() - began < 5)
    assert.error_matches(function() a:matmul(a) end, "over the limit of 0.05 s")
  end)

  it("are of bytes, and hold no longer than that", function()
    collectgarbage()
    collectgarbage()
    local held = pf.memory().live
    pf.limit { bytes = held + 2 ^ 20 }
    assert.error_matches(function() pf.zeros { 1024, 1024 } end, "out of memory")
    assert.same({ 16, 16 }, pf.zeros({ 16, 16 }):shape())
    pf.limit { bytes = "1G" }
    assert.same({ 1024, 1024 }, pf.zeros({ 1024, 1024 }):shape())
  end)

  it("have names", function()
    assert.error_matches(function() pf.limit { second = 1 } end, "did you mean 'seconds'")
    assert.error_matches(function() pf.limit { seconds = -1 } end, "seconds must be 0 or more")
    assert.error_matches(function() pf.limit { bytes = "much" } end,
      "bytes must be a number of bytes")
  end)
end)
