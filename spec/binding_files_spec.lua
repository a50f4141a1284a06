-- binding_files_spec.lua - what Lua reads and writes, what it says when the outside world
-- fails, and the program: scripts, exit codes, help, interrupts.
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local i32 = { dtype = "i32" }

describe("files", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  it("hold tensors", function()
    local path = folder .. "/x.safetensors"
    local a, b = pf.randn(3, 4), pf.tensor({ 1, 2 }, i32)
    assert.is_true(pf.save(path, { a = a, b = b }, { note = "hello" }))
    local back, metadata = pf.load(path)
    assert.bits_equal(a, back.a)
    assert.bits_equal(b, back.b)
    assert.equal("hello", metadata.note)
    local info = pf.inspect(path)
    assert.equal(2, #info.tensors)
    assert.raises("save: a must be a tensor", function() pf.save(path, { a = 1 }) end)
  end)

  it("that are not there give nil, message, code", function()
    for _, try in ipairs { pf.load, pf.inspect, pf.checkpoint.load, pf.checkpoint.model } do
      local value, message, code = try(folder .. "/nothing")
      assert.is_nil(value)
      assert.matches("nothing", message)
      assert.matches("^PF_E", code)
    end
    local value, message, code = pf.load(support.write(folder .. "/bad.safetensors", "garbage..."))
    assert.is_nil(value)
    assert.is_string(message)
    assert.equal("PF_EFORMAT", code)
    value = pf.save("/no/such/folder/x.safetensors", { a = pf.zeros(1) })
    assert.is_nil(value)
  end)

  it("whose contents can't be used give nil, message, code, whatever is wrong with them", function()
    --- A safetensors file of one tensor, as its header says.
    local function file(header)
      return support.write(folder .. "/one.safetensors",
        string.pack("<I8", #header) .. header .. ("\0"):rep(8))
    end
    local one = '{"a":{"dtype":"%s","shape":%s,"data_offsets":[0,8]}}'
    local other = nn.performer { vocab = 4, dim = 4, heads = 1, layers = 1, causal = true }
    local model = nn.performer { vocab = 8, dim = 8, heads = 2, layers = 1, causal = true }
    assert(pf.checkpoint.save(folder .. "/run", { model = other, step = 1 }))
    local stream = other:stream():feed { 1, 2 }
    assert(stream:save(folder .. "/stream"))
    for i, try in ipairs {
      function() return pf.load(folder) end,
      function() return pf.load "/dev/null" end,
      function() return pf.load(file(one:format("C64", "[1]"))) end,
      function() return pf.load(file(one:format("F8_E4M3", "[8]"))) end,
      function() return pf.load(file(one:format("NONE", "[8]"))) end,
      function() return pf.load(file(one:format("F32", "[-2]"))) end,
      function() return pf.inspect(file "[]") end,
      function() return pf.checkpoint.load(folder .. "/run", { model = model }) end,
      function() return model:load_stream(folder .. "/stream") end,
      function() return model:load_state(folder .. "/stream") end,
      function() return pf.attention.load_state(folder .. "/stream") end,
      function() return pf.checkpoint.model(file "{}") end,
    } do
      local ok, value, message, code = pcall(try)
      assert.is_true(ok, ("%d: %s"):format(i, value))
      assert.is_nil(value, i)
      assert.is_string(message)
      assert.matches("^PF_E", code)
    end
    stream:close()
  end)

  -- A header that says what it likes, and so many zero bytes.
  local function crafted(name, header, bytes)
    return support.write(folder .. "/" .. name, string.pack("<s8", header) .. ("\0"):rep(bytes))
  end

  it("that hold what can't be loaded give nil, message, code", function()
    os.execute("mkfifo " .. folder .. "/pipe")
    for _, path in ipairs { folder, folder .. "/pipe", "/dev/null" } do
      local value, message, code = pf.load(path)
      assert.is_nil(value)
      assert.matches("not a regular file", message)
      assert.equal("PF_EIO", code)
    end
    for _, dtype in ipairs { "F8_E4M3", "F8_E5M2", "C64", "F31" } do
      local bytes = dtype == "C64" and 8 or 1
      local path = crafted("x", ([[{"x":{"dtype":"%s","shape":[1],"data_offsets":[0,%d]}}]])
        :format(dtype, bytes), bytes)
      local value, message, code = pf.load(path)
      assert.is_nil(value)
      assert.matches(dtype, message)
      assert.equal("PF_EFORMAT", code)
    end
    local info = pf.inspect(crafted("x",
      [[{"x":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}]], 8))
    assert.equal("C64", info.tensors[1].dtype)
  end)

  it("are written where links lead, and over nothing but files", function()
    local path, tensors = folder .. "/real", { a = pf.ones(2) }
    assert(pf.save(path, { a = pf.zeros(1) }))
    os.execute(("cd %s && ln -s real link && ln -s nowhere far && mkfifo pipe"):format(folder))
    assert.is_true(pf.save(folder .. "/link", tensors))
    assert.equal(2, pf.load(path).a:numel())
    assert.is_true(pf.save(folder .. "/far", tensors))
    assert.equal(2, pf.load(folder .. "/nowhere").a:numel())
    assert.is_true((os.execute(("cd %s && test -L link -a -L far"):format(folder))))
    for _, place in ipairs { "/pipe", "" } do
      local value, message, code = pf.save(folder .. place, tensors)
      assert.is_nil(value)
      assert.matches("takes the place of", message)
      assert.equal("PF_EIO", code)
    end
    assert.is_true((os.execute(("test -p %s/pipe"):format(folder))))
    assert.raises("the path is empty", function() pf.save("", tensors) end)
  end)

  local function trained(model, opt, steps)
    for i = 1, steps do
      local tape <close> = pf.tape()
      local ids = pf.tensor({ { i % 7, 1, 2, 3 } }, i32)
      tape:backward(model(ids):cross_entropy(ids))
      opt:step { lr = 1e-2 }
    end
  end

  it("hold checkpoints that go on exactly", function()
    pf.seed(11)
    local model = nn.performer { vocab = 8, dim = 8, layers = 1, heads = 1, length = 8,
      causal = true }
    local opt = pf.optim.adamw(model, { lr = 1e-2 })
    trained(model, opt, 3)
    local path = assert(pf.checkpoint.save(folder .. "/run", { model = model, optimizer = opt,
      state = { note = "x", list = { 1, 2 } }, tokenizer = pf.tokenizer.byte() }))
    assert.matches("step%-3$", path)
    assert.is_true(pf.checkpoint.mark(folder .. "/run", "BEST", 3))
    local saved = assert(pf.checkpoint.load(folder .. "/run"))
    assert.equal("x", saved.state.note)
    assert.same({ 1, 2 }, { table.unpack(saved.state.list) })
    assert.equal("byte", saved.tokenizer.type)
    assert.equal(3, saved.optimizer:steps())
    trained(model, opt, 2)
    trained(saved.model, saved.optimizer, 2)
    for name, t in pairs(model:tensors()) do assert.bits_equal(t, saved.model:tensors()[name]) end
    local alone = assert(pf.checkpoint.load(folder .. "/run", { optimizer = false }))
    assert.is_nil(alone.optimizer)
    assert.is_not_nil(assert(pf.checkpoint.model(path)):count())
  end)

  it("lend a model its parameters where they lie", function()
    local model = nn.chain { nn.linear { from = 4, to = 6 }, nn.linear { from = 6, to = 4 } }
    local path = assert(pf.checkpoint.save(folder .. "/run", { model = model, step = 1 }))
    local mapped, x = assert(pf.checkpoint.model(path, { mapped = true })), pf.randn(3, 4)
    assert.bits_equal(model(x), mapped(x))
    assert.raises("memory that is only read", function() pf.optim.adamw(mapped, { lr = 1 }) end)
    assert.raises("memory that is only read", function() mapped:tensors()["1.weight"]:fill_(0) end)
    assert.raises("unknown option 'maped' %(did you mean 'mapped'%?%)", function()
      pf.checkpoint.model(path, { maped = true })
    end)
  end)

  it("change neither model nor optimizer where one of them does not fit", function()
    local function both(optimizer, to)
      local model = nn.chain { nn.linear { from = 4, to = 4 }, nn.linear { from = 4, to = to } }
      local opt = pf.optim[optimizer](model, { lr = 0.1 })
      local tape <close> = pf.tape()
      tape:backward(model(pf.randn(2, 4)):square():sum())
      opt:step {}
      return { model = model, optimizer = opt }
    end
    local function bytes(it)
      local path = assert(pf.checkpoint.save(folder .. "/now", it))
      local now = support.read(path .. "/model.safetensors")
        .. support.read(path .. "/optimizer.safetensors")
      support.remove(folder .. "/now")
      return now
    end
    local saved = both("adamw", 4)
    assert(pf.checkpoint.save(folder .. "/x", saved))
    assert(pf.checkpoint.save(folder .. "/alone", { model = saved.model }))
    for _, case in ipairs { { "lion", 4, "x" }, { "adamw", 5, "x" }, { "adamw", 4, "alone" } } do
      local it = both(case[1], case[2])
      local before = bytes(it)
      assert.is_nil((pf.checkpoint.load(folder .. "/" .. case[3], it)))
      assert.equal(before, bytes(it))
    end
  end)

  it("don't fit by the names of an earlier version unless they have layers of that one", function()
    local function linear(to) return nn.linear { from = 8, to = to } end
    local numbered = nn.chain { linear(8), linear(24) } -- 1.weight, 2.weight ...
    local optimizer = pf.optim.adamw(numbered)
    assert(pf.checkpoint.save(folder .. "/x", { model = numbered, optimizer = optimizer }))
    local attention = nn.attention { dim = 8, heads = 2, attention = "exact", bias = true }
    local before = attention:tensors()["qkv.weight"]:tobytes()
    local loaded, message = pf.checkpoint.load(folder .. "/x",
      { model = attention, optimizer = false })
    assert.is_nil(loaded)
    assert.is_truthy(message:find("missing: 'qkv.weight'", 1, true), message)
    assert.equal(before, attention:tensors()["qkv.weight"]:tobytes())
  end)

  it("hold models with layers of one's own", function()
    local function own()
      return { name = "times", w = pf.randn(8), forward = function(self, x) return x * self.w end }
    end
    local function build() return nn.chain { nn.layernorm(8), own() } end
    local model = build()
    assert(pf.checkpoint.save(folder .. "/run", { model = model }))
    for _, name in ipairs { "nothing yet", "another" } do
      if name == "another" then nn.define(name, own) end
      local value, message, code = pf.checkpoint.load(folder .. "/run", { optimizer = false })
      assert.is_nil(value)
      assert.matches("times", message)
      assert.equal("PF_ENOTFOUND", code)
    end
    local into = build()
    assert(pf.checkpoint.load(folder .. "/run", { model = into }))
    local x = pf.randn(2, 8)
    assert.bits_equal(model(x), into(x))
    nn.define("times", own)
    local saved = assert(pf.checkpoint.load(folder .. "/run", { optimizer = false }))
    assert.bits_equal(model(x), saved.model(x))
  end)

  it("are data", function()
    local lines = {}
    for i = 1, 60 do
      lines[#lines + 1] = (">p%d\n%s"):format(i, ("ACDEFGHIKLMNPQRSTVWY"):rep(3):sub(i % 20 + 1))
    end
    local path = support.write(folder .. "/p.fasta", table.concat(lines, "\n") .. "\n")
    local data = assert(pf.data.fasta { path = path, length = 64, min_tokens = 1,
      valid_fraction = 0.2 })
    local info, valid = data:info(), data:info("valid")
    assert.equal("fasta", info.format)
    assert.equal("protein", info.tokenizer)
    assert.equal("fasta", pf.data.kind(path))
    assert.matches("^%x+$", info.checksum)
    assert.equal(16, #info.checksum)
    assert.equal(20, info.documents + valid.documents) -- 60 lines of 20 kinds
    assert.equal(0, info.skipped)
    assert.is_nil(info.skips)
    assert.is_false(info.once)
    assert.equal(data, data:lay(32))
    assert.is_true(data:info().rows >= info.rows)
    assert.same({ 1, 32 }, { table.unpack(data:batch {}.input:shape()) })
    data:lay(64)
    assert.raises("a row of 1 positions", function() data:lay(1) end)
    local marked = support.write(folder .. "/b.fasta", "\n# c\n>a\nMK7\n>b\nMKL\n")
    assert.equal("fasta", pf.data.kind(marked))
    assert.matches("'a': '7'.*%(skip_bad = true%)", select(2, pf.data.open(marked)))
    local some = assert(pf.data.open { path = marked, skip_bad = true })
    assert.equal(1, some:info().skipped)
    assert.matches("'a' in line 4: '7'", some:info().skips)
    assert.equal("text", assert(pf.data.text(marked)):info().format)
    local steps = 0
    for step, batch in data:batches { size = 2, steps = 5, seed = 1, first = 2 } do
      steps = steps + 1
      assert.equal(steps + 1, step)
      assert.same({ 2, 64 }, { table.unpack(batch.input:shape()) })
      assert.equal("i32", batch.target:dtype())
      assert.is_true(batch.rows >= 1 and batch.tokens > 0)
      assert.bits_equal(batch.input, data:batch { index = step, size = 2, seed = 1 }.input)
    end
    assert.equal(4, steps)
    local ids, name = data:document(1)
    assert.matches("^p%d+$", name)
    assert.equal(pf.tokenizer.protein():special "begin", ids:totable()[1])
    local counts = data:counts()
    assert.equal(data:tokenizer():size(), #counts.unigram)
    assert.equal(#counts.unigram, #counts.bigram)
    assert.raises("split must be train", function() data:info("tst") end)
    assert.raises("position 0 of", function() data:document(0) end)
    assert.raises("batches count from 1", function() data:batch { index = 0 } end)
    assert.raises("batches: first must be a number, got table", function()
      data:batches { first = {} }
    end)
    assert.raises("batches: size must be at least 1, got 0", function()
      data:batches { size = 0 }
    end)
    data:close()
    assert.raises("has been closed", function() data:info() end)
    local none, _, code = pf.data.open { path = folder .. "/none" }
    assert.is_nil(none)
    assert.matches("^PF_E", code)
    assert.raises("'pth'.*'path'", function() pf.data.open { pth = path } end)
  end)
end)

describe("tokenizer", function()
  it("goes both ways", function()
    local protein, byte = pf.tokenizer.protein(), pf.tokenizer.byte()
    assert.equal("MKV", protein:decode(protein:encode "MKV"))
    assert.equal("h\xc3\xa9\0!", byte:decode(byte:encode "h\xc3\xa9\0!"))
    assert.equal("i32", byte:encode("a"):dtype())
    assert.same({ 97, 98 }, byte:encode("ab"):totable())
    assert.equal("ab", byte:decode { 97, 98 })
    assert.equal(256, byte:size())
    assert.is_number(protein:special "mask")
    assert.is_nil(byte:special "begin")
    assert.matches("protein tokenizer", tostring(protein))
    local none, message, code = protein:encode "MK1"
    assert.is_nil(none)
    assert.matches("'1' at position 3", message)
    assert.equal("PF_EFORMAT", code)
    assert.raises("ids must be an i32 tensor or a list", function() byte:decode("x") end)
  end)
end)

describe("program", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  local function run(script, arguments)
    return support.performer(support.write(folder .. "/s.lua", script) .. " " .. (arguments or ""))
  end

  it("runs scripts with arguments", function()
    local code, out, err = run([[
      local a, b = ...
      print(a, b, #arg, arg[0]:match "s.lua$", arg[1], require "performer".ones(1):item())
      print((require "lfs").currentdir ~= nil, (require "argparse") ~= nil)
    ]], "one 'two words'")
    assert.equal("", err)
    assert.equal(0, code)
    assert.equal("one\ttwo words\t2\ts.lua\tone\t1.0\ntrue\ttrue\n", out)
  end)

  it("has exit codes", function()
    local code, _, err = run "error 'broken'"
    assert.equal(1, code)
    assert.matches("s.lua:1: broken\nstack traceback:", err)
    code, _, err = run "local = 3"
    assert.equal(1, code)
    assert.matches("s.lua:1:", err)
    assert.is_nil(err:find "traceback")
    code, _, err = run "error { code = 2, message = 'train: needs --data' }"
    assert.equal(2, code)
    assert.equal("performer: train: needs --data\n", err)
    code, _, err = run "require 'performer'.exit(7)"
    assert.equal(7, code)
    assert.equal("", err)
    assert.equal(2, (support.performer "</dev/null"))
    assert.equal(2, (support.performer "none/such.lua"))
    assert.equal(2, (support.performer "--hlp"))
  end)

  it("helps", function()
    local code, out = support.performer "--help"
    assert.equal(0, code)
    assert.matches("usage: performer COMMAND", out)
    assert.matches("train", out)
    code, out = support.performer "--version"
    assert.equal(0, code)
    assert.equal("performer " .. pf.version .. "\n", out)
    local bad, _, err = support.performer "trian"
    assert.equal(2, bad)
    assert.matches("did you mean 'train'", err)
    for _, word in ipairs { "-v", "version" } do
      local _, again = support.performer(word)
      assert.equal(out, again)
    end
    local _, train = support.performer "train --help"
    for _, words in ipairs { "help train", "--help train" } do
      local status, said = support.performer(words)
      assert.equal(0, status)
      assert.equal(train, said)
    end
    bad, _, err = support.performer "help trian"
    assert.equal(2, bad)
    assert.matches("no command 'trian' %(did you mean 'train'%?%)\n$", err)
    bad, _, err = support.performer "help sample"
    assert.equal(2, bad)
    assert.matches("it is performer generate\n$", err)
    for words, told in pf.sorted { -- of nanoGPT and llama.cpp
      ["python train.py x.py"] = "it is performer train FILE, or performer FILE.lua\n$",
      ["llama-cli -m x"] = "it is performer generate RUN PROMPT\n$",
      ["serve runs/x"] = "a program that serves many is examples/16_serve.lua\n$",
      ["-m x -p y"] = "no option '%-m'; a model writes by performer generate RUN PROMPT\n$",
    } do
      code, _, err = support.performer(words)
      assert.equal(2, code)
      assert.matches(told, err)
    end
  end)

  it("leaves the first Ctrl-C to a script that asks, and stops one that doesn't", function()
    local function interrupt(script)
      support.write(folder .. "/s.lua", script)
      return support.shell(([[%s/bin/performer %s/s.lua & pid=$!
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
          [ -e %s/ready ] && break; sleep 0.1
        done
        kill -INT $pid; wait $pid]]):format(support.build, folder, folder))
    end
    -- The shell ignores SIGINT for what runs in the background; the program sets its own.
    local code, out = interrupt(([[
      local pf = require "performer"
      pf.interrupted()
      io.open("%s/ready", "w"):close()
      local began = pf.clock()
      while not pf.interrupted() and pf.clock() - began < 20 do pf.zeros(10) end
      print("saved")
      pf.exit(130)
    ]]):format(folder))
    assert.equal("saved\n", out)
    assert.equal(130, code)
    os.remove(folder .. "/ready")
    local stopped, _, err = interrupt(([[
      io.open("%s/ready", "w"):close()
      local began = os.time()
      while os.time() - began < 20 do end
    ]]):format(folder))
    assert.equal(130, stopped)
    assert.matches("interrupted", err)
  end)

  it("runs in a stock Lua too", function()
    local code, out, err = support.shell(([[LUA_PATH='%s/lua/?.lua;%s/lua/?/init.lua;;' \
      LUA_CPATH='%s/lua/?.so;;' lua5.4 -e 'print(require "performer".ones(2):sum():item())']])
      :format(support.build, support.build, support.build))
    assert.equal("", err)
    assert.equal(0, code)
    assert.equal("2.0\n", out)
  end)
end)
