-- bytes_spec.lua - elements as bytes (frombytes, tobytes), held against string.pack and plain
-- definitions of the small floats.
local pf = require "performer"

describe("elements as bytes", function()
  it("are what string.pack makes, in both orders", function()
    local numbers = { 0, 1, 2, 100, 127 }
    local packs = { u8 = "I1", i8 = "i1", u16 = "I2", i16 = "i2", u32 = "I4", i32 = "i4",
      u64 = "I8", i64 = "i8", f32 = "f", f64 = "d" }
    for dtype, pack in pairs(packs) do
      for _, big in ipairs { false, true } do
        local want = (big and ">" or "<") .. pack:rep(#numbers)
        for _, own in ipairs { "f32", "i32" } do
          local t = pf.tensor(numbers, { dtype = own })
          local bytes = t:tobytes(dtype, { big_endian = big })
          assert.equal(want:pack(table.unpack(numbers)), bytes, dtype)
        end
        local back = pf.frombytes(want:pack(table.unpack(numbers)), dtype, { 5 },
          { big_endian = big })
        assert.same(numbers, back:totable())
      end
    end
    assert.same({ { 1, 2 }, { 3, 4 } }, pf.frombytes("\1\2\3\4", "u8", { 2, 2 }):totable())
    assert.same({ 0, 3 }, pf.frombytes("", "f16", { 0, 3 }):shape())
    assert.same({ -1, -32768 }, pf.frombytes("\xff\xff\0\x80", "i16", { 2 }):totable())
    assert.equal(pf.tensor { { 1, 3 }, { 2, 4 } }:tobytes(),
      pf.tensor { { 1, 2 }, { 3, 4 } }:transpose():tobytes "f32")
  end)

  --- The value of the small float of so many bits, from its definition.
  local function value(bits, exponent, fraction)
    local sign = bits >> (exponent + fraction) == 1 and -1 or 1
    local power = bits >> fraction & (1 << exponent) - 1
    local part = bits & (1 << fraction) - 1
    local bias = (1 << exponent - 1) - 1
    if power == (1 << exponent) - 1 then return part == 0 and sign / 0 or 0 / 0 end
    if power == 0 then return sign * part * 2.0 ^ (1 - bias - fraction) end
    return sign * (1 + part / (1 << fraction)) * 2.0 ^ (power - bias)
  end

  it("f16 and bf16 are all of their values, and round to the nearest, ties to even", function()
    for dtype, widths in pairs { f16 = { 5, 10 }, bf16 = { 8, 7 } } do
      local texts = {}
      for bits = 0, 65535 do texts[bits + 1] = ("<I2"):pack(bits) end
      local bytes = table.concat(texts)
      local all = pf.frombytes(bytes, dtype, { 65536 })
      local numbers, wrong = all:totable(), nil
      for bits = 0, 65535 do
        local want, got = value(bits, widths[1], widths[2]), numbers[bits + 1]
        if got ~= want and (got == got or want == want) then wrong = bits end
      end
      assert.is_nil(wrong)
      local again = all:tobytes(dtype)
      for bits = 0, 65535 do
        local want = value(bits, widths[1], widths[2])
        local got = value(("<I2"):unpack(again, 2 * bits + 1), widths[1], widths[2])
        if got ~= want and (got == got or want == want) then wrong = bits end
      end
      assert.is_nil(wrong)
    end
    local between = { 1 + 2 ^ -11, 1 + 3 * 2 ^ -11, 1 + 2 ^ -11 + 2 ^ -20, 65519, 2 ^ -25,
      2 ^ -25 * 1.5, 2 ^ -24 * 1.5, 2047.5 }
    local want = { 1, 1 + 2 ^ -9, 1 + 2 ^ -10, 65504, 0, 2 ^ -24, 2 ^ -23, 2048 }
    assert.same(want, pf.frombytes(pf.tensor(between):tobytes "f16", "f16", { 8 }):totable())
    assert.same({ 1, 1 + 2 ^ -6 }, pf.frombytes(pf.tensor { 1 + 2 ^ -8, 1 + 3 * 2 ^ -8 }
      :tobytes "bf16", "bf16", { 2 }):totable())
    -- A whole number is rounded once, not to f32 first.
    assert.same({ 2049 - 1 }, pf.frombytes(pf.tensor({ 2049 }, { dtype = "i32" }):tobytes "f16",
      "f16", { 1 }):totable())
  end)

  it("are refused where a number does not fit", function()
    local function fails(f, ...)
      local fine, message = pcall(f)
      assert.is_false(fine)
      for _, text in ipairs { ... } do
        assert.is_truthy(message:find(text, 1, true), message .. "\n   lacks: " .. text)
      end
    end
    for dtype, bad in pairs { u8 = { -1, 256, 0.5, 0 / 0, 1 / 0 }, i8 = { 128, -129 },
      u16 = { 65536 }, i16 = { -32769 }, u32 = { -1, 4294967296 }, i64 = { 2.0 ^ 63 },
      u64 = { 2.0 ^ 64, -1 }, f16 = { 65520, -1e6 }, bf16 = { 3.4e38 } } do
      for _, number in ipairs(bad) do
        fails(function() return pf.tensor({ 0, number }):tobytes(dtype) end, "element 2", dtype)
      end
    end
    fails(function() return pf.frombytes(("<i8"):pack(1 << 31), "i64", { 1 }) end, "element 1",
      "2147483648", "i32")
    fails(function() return pf.frombytes(("<I4"):pack(1 << 31), "u32", { 1 }) end, "i32")
    fails(function() return pf.frombytes(("<d"):pack(1e39), "f64", { 1 }) end, "f32")
    fails(function() return pf.frombytes("abc", "u16", { 2 }) end, "[2]", "4 bytes", "3")
    fails(function() return pf.frombytes("abc", "bf61", { 2 }) end, "bf61", "did you mean")
    fails(function() return pf.ones(2):tobytes "u8888888888888888888888" end, "no type 'u888")
    fails(function() return pf.frombytes("abc", "u8", { 1 << 62, 4 }) end, "memory")
    fails(function() return pf.frombytes("abc", "u8", 3) end, "list")
    fails(function() return pf.tensor({ 1 }):tobytes("u8", { big = true }) end, "big")
  end)
end)
