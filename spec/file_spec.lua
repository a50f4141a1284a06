-- file_spec.lua - files in memory: everything that takes a path takes one that begins with
-- "memory:", bytes of strings stand for files, and all of it goes through the engine.
local child = require "spec.support.child"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local i32 = { dtype = "i32" }

local function small()
  return nn.performer { vocab = 11, dim = 8, layers = 1, heads = 2, causal = true,
                        kernel = { features = 8 } }
end

describe("pf.file", function()
  local disk
  setup(function() disk = support.folder() end)
  teardown(function() support.remove(disk) end)

  for _, root in ipairs { "memory:files", "" } do
    it("reads, writes, lists and removes in " .. (root ~= "" and "memory" or "a folder"),
      function()
        local place = root ~= "" and root or disk .. "/files"
        assert.is_true(pf.file.make_folder(place .. "/a/b"))
        assert.is_true(pf.file.make_folder(place .. "/a/b"))
        for _, bytes in ipairs { "", "one\0two\n", ("x"):rep(300000) } do
          assert.is_true(pf.file.write(place .. "/a/f", bytes))
          assert.equal(#bytes, pf.file.size(place .. "/a/f"))
          assert.is_true(pf.file.read(place .. "/a/f") == bytes)
        end
        assert.is_true(pf.file.write(place .. "/a/.g", "hidden"))
        assert.same({ ".g", "b", "f" }, pf.file.list(place .. "/a"))
        local value, message, code = pf.file.read(place .. "/a/b")
        assert.is_nil(value)
        assert.matches("folder", message)
        assert.equal("PF_EIO", code)
        assert.is_true(pf.file.remove(place))
        value, message, code = pf.file.list(place .. "/a")
        assert.is_nil(value)
        assert.matches("files/a", message)
        assert.equal("PF_ENOTFOUND", code)
        value, message, code = pf.file.remove(place)
        assert.same({ nil, "PF_ENOTFOUND" }, { value, code })
        assert.matches("files", message)
      end)
  end

  it("asks for paths and strings", function()
    assert.raises("file.read: the path", function() pf.file.read(1) end)
    assert.raises("file.write: a string is needed", function() pf.file.write("memory:x", {}) end)
    assert.raises("bytes: a string is needed, got nil", function() pf.load {} end)
    assert.raises("path or bytes", function() pf.data.text { path = "x", bytes = "y" } end)
  end)

  it("stays within the budget", function()
    local held = pf.memory().live
    assert.is_true(pf.file.write("memory:big", ("x"):rep(1 << 20)))
    assert.is_true(pf.memory().live - held >= 1 << 20)
    assert.is_true(pf.file.remove "memory:big")
    assert.is_true(pf.memory().live - held < 4096)
    assert.matches("write memory:x: out of memory: asked for", child.run([[
      local text = ("x"):rep(9 << 20)
      print(select(2, pcall(pf.file.write, "memory:x", text)))]], "{ memory = '8M' }"))
  end)
end)

describe("paths in memory", function()
  after_each(function() pf.file.remove "memory:run" end)

  it("hold tensors, that go out and in as strings", function()
    local a = pf.randn(3, 4)
    assert.is_true(pf.save("memory:x", { a = a }, { note = "hello" }))
    local bytes = pf.file.read "memory:x"
    assert.is_true(pf.file.remove "memory:x")
    local back, metadata = pf.load { bytes = bytes }
    assert.bits_equal(a, back.a)
    assert.equal("hello", metadata.note)
    local value, _, code = pf.load { bytes = bytes:sub(1, -2) }
    assert.same({ nil, "PF_EFORMAT" }, { value, code })
    value, _, code = pf.file.read "memory:bytes"
    assert.same({ nil, "PF_ENOTFOUND" }, { value, code })
  end)

  it("hold runs: the same bits come back, also as a model alone", function()
    local model = small()
    local optimizer = pf.optim.adamw(model, { lr = 0.01 })
    assert.equal("memory:run/step-3",
      pf.checkpoint.save("memory:run", { model = model, optimizer = optimizer, step = 3,
                                         state = { words = "kept" }, tokenizer = "byte" }))
    assert.is_true(pf.checkpoint.hold "memory:run")
    assert.is_truthy(pf.checkpoint.save("memory:run", { model = model, step = 4, keep = 1 }))
    assert.is_true(pf.checkpoint.mark("memory:run", "BEST", 4))
    assert.same({ "BEST", "LATEST", "step-4" }, pf.file.list "memory:run")
    local x = pf.tensor({ { 1, 2, 3 } }, i32)
    for _, path in ipairs { "memory:run", "memory:run/BEST", "memory:run/step-4" } do
      assert.bits_equal(model(x), assert(pf.checkpoint.model(path))(x))
    end
    assert.equal("memory:run/step-4", pf.inspect("memory:run").checkpoint)
    local other = small()
    assert.equal(0, #assert(pf.weights.load(other, "memory:run")).missing)
    assert.bits_equal(model(x), other(x))
  end)

  it("hold streams and states", function()
    local model = small()
    local stream = model:stream()
    stream:feed(pf.tensor({ 1, 2, 3 }, i32))
    assert.is_true(stream:save "memory:stream")
    local again = assert(model:load_stream "memory:stream")
    assert.equal(3, again:position())
    assert.bits_equal(stream:logits(), again:logits())
    pf.file.remove "memory:stream"
  end)

  it("hold data, as strings do", function()
    local text = ("to be or not to be, "):rep(40)
    local data = assert(pf.data.text { bytes = text, length = 16 })
    pf.file.write("memory:text", text)
    local same = assert(pf.data.text { path = "memory:text", length = 16 })
    assert.same(data:info "train", same:info "train")
    local fasta = assert(pf.data.open { bytes = ">a\nMKLV\n>b\nMKLI\n", length = 8 })
    assert.equal(2, fasta:info("all").documents)
    pf.file.write("memory:proteins", ">a\nMKLV\n>b\nMKLI\n>c\nACDEF\n")
    local shards = assert(pf.data.shard { path = "memory:proteins", out = "memory:shards" })
    assert.equal(3, shards:info("all").documents)
    assert.equal("fasta", pf.data.kind "memory:proteins")
    local value, _, code = pf.data.open { bytes = "" }
    assert.same({ nil, "PF_EFORMAT" }, { value, code })
    for _, name in ipairs { "text", "proteins", "shards" } do pf.file.remove("memory:" .. name) end
  end)

  it("are of one engine", function()
    assert.is_true(pf.file.write("memory:mine", "x"))
    assert.matches("PF_ENOTFOUND",
      child.run([[print(select(3, pf.file.read "memory:mine"))]], "{}"))
    assert.is_true(pf.file.remove "memory:mine")
  end)
end)
