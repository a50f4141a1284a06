-- npy_spec.lua - numpy's files: the bytes that numpy writes, in every type, order and version, and
-- what is wrong with others; .npz stored and deflated.
local pf = require "performer"
local support = require "spec.support"

local place = "memory:array"

--- The bytes of a .npy file as numpy writes it.
local function npy(descr, shape, data, options)
  local o = options or {}
  local head = o.head or ("{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"):format(descr,
    o.fortran and "True" or "False", shape)
  local version = o.version or 1
  local front = version == 1 and 10 or 12
  head = head .. (" "):rep(-(front + #head + 1) % 64) .. "\n"
  return "\x93NUMPY" .. string.char(version, 0) .. string.pack(version == 1 and "<I2" or "<I4",
    #head) .. head .. data
end

local function load(bytes) return pf.npy.load { bytes = bytes } end

--- Refused with a message that has these words.
local function refused(bytes, ...)
  local got, message = load(bytes)
  assert.is_nil(got)
  for _, text in ipairs { ... } do
    assert.is_truthy(message:find(text, 1, true), message .. "\n   lacks: " .. text)
  end
end

describe("a .npy file", function()
  it("is read in every type and order of bytes", function()
    local kinds = { i1 = "i1", i2 = "i2", i4 = "i4", i8 = "i8", u1 = "I1", u2 = "I2", u4 = "I4",
      u8 = "I8", f4 = "f", f8 = "d" }
    for kind, pack in pairs(kinds) do
      for _, order in ipairs { "<", ">" } do
        local data = (order .. pack):pack(1) .. (order .. pack):pack(100) .. (order .. pack):pack(7)
        local t = load(npy(order .. kind, "(3,)", data))
        assert.same({ 1, 100, 7 }, t:totable(), kind .. order)
        assert.equal(kind:find "f" and "f32" or "i32", t:dtype())
      end
    end
    assert.same({ -1, -128 }, load(npy("|i1", "(2,)", "\xff\x80")):totable())
    assert.same({ 1, -2 }, load(npy("<f2", "(2,)", "\x00\x3c\x00\xc0")):totable())
    assert.same({ 1, 0 }, load(npy("|b1", "(2,)", "\1\0")):totable())
  end)

  it("has any shape, order of rows and version", function()
    assert.equal(5, load(npy("|u1", "()", "\5")):item())
    assert.same({ 0, 3 }, load(npy("<f4", "(0, 3)", "")):shape())
    local rows = npy("|u1", "(2, 3)", "\1\2\3\4\5\6")
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, load(rows):totable())
    local columns = npy("|u1", "(2, 3)", "\1\4\2\5\3\6", { fortran = true })
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, load(columns):totable())
    for version = 1, 3 do
      assert.same({ 9 }, load(npy("|u1", "(1,)", "\9", { version = version })):totable())
    end
    local other = [[{"shape": (2,), "fortran_order": False, "descr": "|u1"}]]
    assert.same({ 1, 2 }, load(npy(nil, nil, "\1\2", { head = other })):totable())
  end)

  it("is refused in a sentence where it is none, cut or too large", function()
    local good = npy("<i4", "(2,)", ("<i4i4"):pack(1, 2))
    for n = 0, #good - 1, 7 do refused(good:sub(1, n), "npy") end
    refused(good:sub(1, -2), "8 bytes", "7")
    refused(good .. "x", "there are 9")
    refused("hello world, no array", "no .npy file")
    refused(npy("<i4", "(4611686018427387904, 4)", ""), "too large")
    refused(npy("<i4", "(99999999999999999999,)", ""), "too large")
    refused(npy("<i4", "(1000000000,)", "abcd"), "4000000000 bytes")
    refused(npy("<i4", "(1, 1, 1, 1, 1, 1, 1, 1, 1)", "abcd"), "8 dimensions")
    refused(npy("<i4", "(2,)", ("<i4i4"):pack(1, 2), { version = 4 }), "version 4")
    refused("\x93NUMPY\2\0\xff\xff\xff\x7f", "header", "65536")
    refused(npy("<i8", "(2,)", ("<i8i8"):pack(1, 1 << 31)), "element 2", "2147483648", "i32")
    refused(npy("<f8", "(1,)", ("<d"):pack(1e300)), "element 1", "f32")
  end)

  it("says which elements are no numbers, and what is wrong with a header", function()
    refused(npy("<c16", "(1,)", ("\0"):rep(16)), "complex", "<c16")
    refused(npy("|O", "(1,)", ""), "Python")
    refused(npy("<U5", "(1,)", ""), "texts")
    refused(npy("<M8[s]", "(1,)", ""), "dates")
    refused(npy("<f16", "(1,)", ("\0"):rep(16)), "<f16")
    refused(npy(nil, nil, "", { head =
      "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }" }), "structured")
    local shape = "'fortran_order': False, 'shape': (1,)"
    for head, word in pairs {
      ["{'descr': '|u1', 'shape': (1,), }"] = "no 'fortran_order'",
      ["{'descr': '|u1', 'descr': '|u1', " .. shape .. "}"] = "twice",
      ["{'descr': '|u1', 'more': 1, " .. shape .. "}"] = "key 'more'",
      ["{'descr': '|u1', " .. shape .. "} x"] = "behind",
      ["{'descr': '|u1' " .. shape .. "}"] = "dictionary",
      ["{'descr': '|u1, "] = "end",
      ["['descr']"] = "dictionary",
      ["{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}"] = "fortran_order",
      ["{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}"] = "shape",
      ["{'descr': '|u1', 'fortran_order': False, 'shape': [1]}"] = "shape",
    } do refused(npy(nil, nil, "\1", { head = head }), word) end
  end)

  it("is saved with numpy's own bytes, and comes back", function()
    local t = pf.tensor { { 1.5, -2, 3 }, { 4, 5, 0 / 0 } }
    assert.is_true(pf.npy.save(place, t))
    assert.equal(npy("<f4", "(2, 3)", t:tobytes()), pf.file.read(place))
    assert.is_true(t:tobytes() == pf.npy.load(place):tobytes())
    for _, u in ipairs { pf.arange(5, { dtype = "i32" }), pf.tensor(7), pf.zeros(0, 2),
      pf.randn(3, 4):transpose() } do
      pf.npy.save(place, u)
      local v = pf.npy.load(place)
      assert.same(u:shape(), v:shape())
      assert.equal(u:tobytes(), v:tobytes())
    end
    pf.npy.save(place, pf.tensor { 1, 255 }, { dtype = "u8" })
    assert.equal(npy("|u1", "(2,)", "\1\255"), pf.file.read(place))
    local saved, message = pcall(pf.npy.save, place, pf.tensor { 1, 256 }, { dtype = "u8" })
    assert.is_false(saved)
    assert.is_truthy(message:find("element 2", 1, true) and message:find("256", 1, true), message)
    assert.is_false((pcall(pf.npy.save, place, pf.tensor { 1 }, { dtype = "bf16" })))
    assert.equal(npy("|u1", "(2,)", "\1\255"), pf.file.read(place)) -- what failed changed nothing
    assert.is_nil((pf.npy.load "memory:nothing"))
  end)
end)

describe("a .npz file", function()
  local tensors = { a = pf.randn(40, 30), ["b/c"] = pf.arange(3, { dtype = "i32" }),
    empty = pf.zeros(0, 2) }

  local function saved(options)
    assert.is_true(pf.npy.save(place, tensors, options))
    return pf.file.read(place)
  end

  it("comes back, stored and deflated, the same bytes each time", function()
    for _, compress in ipairs { false, true } do
      local bytes = saved { compress = compress }
      assert.is_true(bytes == saved { compress = compress })
      local got = pf.npy.load(place)
      for name, t in pairs(tensors) do
        assert.same(t:shape(), got[name]:shape())
        assert.is_true(t:tobytes() == got[name]:tobytes(), name)
        got[name] = nil
      end
      assert.is_nil(next(got))
    end
    pf.npy.save(place, {})
    assert.same({}, pf.npy.load(place))
  end)

  it("that is cut or changed anywhere is refused, or holds the same", function()
    for _, compress in ipairs { false, true } do
      local bytes = saved { compress = compress }
      for n = 0, #bytes - 1, 97 do
        local got = load(bytes:sub(1, n))
        assert.is_nil(got, n)
      end
      for at = 1, #bytes, 41 do
        local changed = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 0x55) ..
          bytes:sub(at + 1)
        local got = load(changed)
        for name, t in pairs(got or {}) do
          if tensors[name] then assert.is_true(tensors[name]:tobytes() == t:tobytes(), at) end
        end
      end
    end
  end)

  it("is not written with names that are none, or lead out of it", function()
    local before = saved()
    local t = pf.ones(1)
    for _, name in ipairs { "", "/a", "a/", "a//b", "../a", "a/../../b", ".", "a/.", "a\\b" } do
      local done, message = pcall(pf.npy.save, place, { [name] = t })
      assert.is_false(done, name)
      assert.is_truthy(tostring(message):find("name", 1, true), message)
    end
    local done, message = pcall(pf.npy.save, place, { ["a\0b"] = t })
    assert.is_false(done)
    assert.is_truthy(tostring(message):find("a zero byte", 1, true), message)
    assert.is_true(before == pf.file.read(place)) -- what failed changed nothing
    for _, name in ipairs { "a/b/c", "..a", "a.", "b..", "\195\164" } do
      assert.is_true(pf.npy.save(place, { [name] = t }))
      assert.is_userdata(pf.npy.load(place)[name])
    end
  end)

  it("says what it can't read", function()
    local bytes = saved()
    local function with(at, text) return bytes:sub(1, at - 1) .. text .. bytes:sub(at + #text) end
    local listed = bytes:find("PK\1\2", 1, true)
    refused(with(listed + 8, "\1"), "encrypted")
    refused(with(listed + 10, "\12"), "method 12")
    refused(with(listed + 16, "\0\0\0\0"), "checksum")
    refused(with(listed + 24, "\255\255\255\127"), "not there")
    refused(bytes:gsub("a%.npy", "a.txt"), "'a.txt' is no array")
    refused(bytes:gsub("b/c%.npy", "\0/c.npy"), "name")
    refused(bytes:sub(1, -2), "cut short")
    -- A short file whose record of 64 bits would begin before it.
    for _, at in ipairs { -16, -1, 0, 1 << 62 } do
      refused(("<c4I4i8I4"):pack("PK\6\7", 0, at, 1) ..
        ("<c4I2I2I2I2I4I4I2"):pack("PK\5\6", 0, 0, 65535, 65535, 0xffffffff, 0xffffffff, 0),
        "outside the file")
    end
    local once = bytes:gsub("empty%.npy", "a.npy.npy")
    assert.is_table((load(once)))
  end)
end)

describe("pf.save and pf.load", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  it("go by what a path ends in", function()
    local a, b = pf.randn(2, 3), pf.arange(4, { dtype = "i32" })
    for name, front in pairs { ["x.npy"] = "\x93NUMPY", ["X.NPY"] = "\x93NUMPY" } do
      assert.is_true(pf.save(folder .. "/" .. name, a))
      local bytes = pf.file.read(folder .. "/" .. name)
      assert.equal(front, bytes:sub(1, 6))
      for _, source in ipairs { folder .. "/" .. name, { bytes = bytes } } do
        local got, metadata = pf.load(source)
        assert.bits_equal(a, got)
        assert.same({}, metadata)
      end
    end
    for name, front in pairs { ["x.npz"] = "PK\3\4", ["x.safetensors"] = "%C", ["x.pt"] = "%C",
                               x = "%C" } do
      assert.is_true(pf.save(folder .. "/" .. name, { a = a, b = b }))
      local bytes = pf.file.read(folder .. "/" .. name)
      assert.matches("^" .. front, (bytes:gsub("%z", "0")))
      for _, source in ipairs { folder .. "/" .. name, { bytes = bytes } } do
        local got, metadata = pf.load(source)
        assert.bits_equal(a, got.a)
        assert.bits_equal(b, got.b)
        assert.is_table(metadata)
      end
    end
    local model = pf.nn.linear { from = 2, to = 3 }
    assert.is_true(pf.save(folder .. "/m.npz", model))
    assert.bits_equal(model:tensors().weight, pf.load(folder .. "/m.npz").weight)
  end)

  it("refuse what such a file can't hold", function()
    local t = pf.ones(2)
    for name, try in pairs {
      ["x.npy holds one tensor; .*%.npz or .safetensors"] = function()
        pf.save("x.npy", { a = t })
      end,
      ["x.npz holds {name = tensor}; one tensor goes into .npy"] = function()
        pf.save("x.npz", t)
      end,
      ["x.npy keeps no metadata"] = function() pf.save("x.npy", t, { note = "x" }) end,
      ["x.npz keeps no metadata"] = function() pf.save("x.npz", { a = t }, { compress = true }) end,
      ["{name = tensor} is needed, got %S*tensor"] = function() pf.save("x.safetensors", t) end,
      ["npy.save: compress is of .npz"] = function()
        pf.npy.save("memory:x.npy", t, { compress = true })
      end,
    } do assert.raises(name, try) end
    assert.is_true(pf.npy.save("memory:x.npy", t, { compress = false }))
    assert.is_true(pf.file.remove "memory:x.npy")
    for _, name in ipairs { "/none.npy", "/none.npz" } do
      local value, message, code = pf.load(folder .. name)
      assert.is_nil(value)
      assert.matches("none", message)
      assert.matches("^PF_E", code)
    end
  end)
end)
