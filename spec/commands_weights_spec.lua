-- commands_weights_spec.lua - weights from elsewhere, as users of the commands meet them: convert,
-- train --init, --freeze and --adapters.
local commands = require "spec.support.commands"
local foreign = require "spec.support.foreign"
local lfs = require "lfs"
local pf = require "performer"
local support = require "spec.support"

local assert_fields, assert_sentence, good = commands.assert_fields, commands.assert_sentence,
  commands.good
local log_of, path, performer, records, train = commands.log_of, commands.path, commands.performer,
  commands.records, commands.train

local SHORT = " --steps 6 --eval-every 3 --log-every 1 --threads 1 "

--- What a run's last checkpoint holds, as bytes by name.
local function bytes_of(run)
  local last = support.read(run .. "/LATEST"):match "%S+"
  local all = {}
  for name, tensor in pairs(assert(pf.load(("%s/%s/model.safetensors"):format(run, last)))) do
    all[name] = tensor:tobytes()
  end
  return all
end

local function loss_of(run, data)
  return records(good(("eval --checkpoint %s --data %s --threads 1 --json"):format(run, data)))[1]
    .loss
end

describe("weights from elsewhere", function()
  local book, other

  setup(function()
    commands.start()
    book = commands.train_book()
    other = path "other.txt"
    support.write(other, ("stones under the old river run over bridges\n"):rep(60))
  end)

  teardown(commands.stop)

  --- Refused with a sentence, and no run is left.
  local function refused(code, pattern, arguments)
    local run = path "refused"
    local got, _, err = performer(("train --out %s %s %s"):format(run, SHORT, arguments))
    assert.are.equal(code, got, err)
    assert_sentence(err, pattern)
    assert.is_false(commands.exists(run .. "/LATEST"))
  end

  describe("convert", function()
    it("tells each attention that there is once", function()
      local code, _, err = performer(("convert %s %s --attention none"):format(book, path "none"))
      assert.equal(2, code)
      local met = {}
      for name in err:match "there are ([^\n]+)":gmatch "[%w_]+" do
        assert.is_nil(met[name], name)
        met[name] = true
      end
      assert.is_true(met.identity and met.lsh and met.relu and not met.auto)
    end)

    it("makes a folder to be shipped, which every command takes for its model", function()
      local ship, average = path "ship", path "average"
      local record = records(good(("convert --checkpoint %s --ship --out %s --json"):format(book,
        ship)))[1]
      assert.is_true(record.shipped)
      local files = {}
      for name in lfs.dir(ship) do files[#files + 1] = name:sub(1, 1) ~= "." and name or nil end
      table.sort(files)
      assert.same({ "config.json", "manifest.json", "model.safetensors", "tokenizer.json" }, files)
      assert.equal(loss_of(book, other), loss_of(ship, other))
      local function text_of(folder)
        return records(good(("generate --checkpoint %s --prompt the --tokens 20 --seed 3 "
          .. "--temperature 1 --json"):format(folder)))[1].text
      end
      assert.equal(text_of(book), text_of(ship))
      support.write(path "one.txt", "under the river\n")
      for _, command in ipairs { "embed", "score" } do
        good(("%s --checkpoint %s --data %s --threads 1"):format(command, ship, path "one.txt"))
      end
      good("inspect " .. ship)
      -- Nothing is written over, and training goes on from no such folder, but begins from it.
      local code, _, err = performer(("convert --checkpoint %s --ship --out %s"):format(book, ship))
      assert.equal(1, code)
      assert_sentence(err, "is there already, with something in it")
      code, _, err = performer(("train --resume %s --out %s"):format(ship, path "goes_on"))
      assert.equal(1, code)
      assert_sentence(err, "begin a run with its weights: %-%-init")
      code, _, err = performer("report " .. ship)
      assert.equal(1, code)
      assert_sentence(err, "stands alone, not in a run folder$") -- nothing goes on there
      code, _, err = performer("train --resume " .. ship)
      assert.equal(1, code)
      assert_sentence(err, "not in a run folder; say with %-%-out FOLDER where to go on")
      train("begins", ("--data %s --init %s %s"):format(other, ship, SHORT))
      -- Of a run with an average of the weights it is that.
      train("averaged", ("--data %s --ema 0.5 %s"):format(other, SHORT))
      good(("convert --checkpoint %s --ship --out %s"):format(path "averaged", average))
      assert.equal(loss_of(path "averaged", other), loss_of(average, other))
    end)

    it("puts one attention under layers, and groups of heads, that had several", function()
      local size = { vocab = 256, dim = 8, layers = 2, heads = 2, causal = true, length = 64 }
      for name, more in pairs {
        layers = { attention = { "exact", "favor" }, kernel = { "relu", "elu" } },
        groups = { head_groups = { { heads = 1, attention = "exact" },
                                   { heads = 1, kernel = { name = "relu" } } } },
      } do
        for key, value in pairs(size) do more[key] = value end
        local from, to = path(name), path(name .. "_to")
        local model = pf.nn.performer(more)
        assert(pf.checkpoint.save(from, { model = model, tokenizer = pf.tokenizer.byte() }))
        local record = records(good(("convert --checkpoint %s --attention softmax --features 8 "
          .. "--out %s --json"):format(from, to)))[1]
        assert.is_truthy(record.from:find "exact", record.from)
        assert.are.equal("softmax", record.to)
        local after = assert(pf.checkpoint.model(to)):tensors()
        for key, tensor in pairs(model:tensors()) do
          if not key:find "projection" then assert.bits_equal(tensor, after[key]) end
        end
      end
    end)

    it("puts other attention under the same weights, there and back", function()
      local fast, back = path "fast", path "back"
      local code, _, told = performer(("convert --checkpoint %s --attention lsh --out %s"):format(
        book, fast))
      assert.are.equal(1, code, told)
      assert_sentence(told, "lsh attention has its queries for keys")
      local record = records(good(("convert --checkpoint %s --attention exact --out %s --json")
        :format(book, fast)))[1]
      assert_fields(record, { params = "integer", from = "string", to = "string" })
      assert.are.same({ "softmax", "exact" }, { record.from, record.to })
      assert.is_nil(record.projections)
      local _, err = good(("convert --checkpoint %s --attention softmax --features 24 --out %s")
        :format(fast, back))
      assert.truthy(err:find "exact %-> softmax: %d+ parameters in ")
      assert.truthy(err:find "projections drawn for 1 layer: softmax, 24 features.*, seed %d")
      local before, after = bytes_of(book), bytes_of(back)
      for name, bytes in pairs(before) do
        if not name:find "projection" then assert.is_true(bytes == after[name], name) end
      end
      assert.are.equal(24, pf.checkpoint.model(back):options().kernel.features)
    end)

    it("makes what eval, generate and train --init take", function()
      local to = path "relu"
      good(("convert --checkpoint %s --attention relu --out %s"):format(book, to))
      assert.is_true(loss_of(to, path "t.txt") > loss_of(book, path "t.txt"))
      local out = good(("generate --checkpoint %s --prompt the --tokens 5 --threads 1"):format(to))
      assert.truthy(out:find "^the")
      local run = train("from-relu", SHORT .. ("--data %s --init %s"):format(other, to))
      assert.are.equal("relu", pf.checkpoint.model(run):options().kernel.name)
    end)

    it("puts it under heads in groups too", function()
      local run, to = path "groups", path "of-groups"
      pf.seed(3)
      local model = pf.nn.performer { vocab = 9, dim = 8, layers = 1, heads = 4, causal = true,
        head_groups = { { heads = 1, attention = "exact" },
                        { heads = 3, kernel = { features = 8, seed = 2 } } } }
      assert(pf.checkpoint.save(run, { model = model }))
      local record = records(good(("convert --checkpoint %s --attention relu --out %s --json")
        :format(run, to)))[1]
      assert.are.same({ "exact, softmax", "relu" }, { record.from, record.to })
      local got = pf.checkpoint.model(to):tensors()
      for name, tensor in pairs(model:tensors()) do
        if not name:find "projection" then assert.bits_equal(tensor, got[name]) end
      end
    end)

    it("takes a model of another program", function()
      local folder, to = support.folder(), path "gpt"
      finally(function() support.remove(folder) end)
      local model = foreign.models.gpt2
      foreign.write(folder, model.config, foreign.numbers(model, 1))
      local record = records(good(("convert --checkpoint %s --attention softmax --features 8 "
        .. "--kernel-seed 5 --out %s --json"):format(folder, to)))[1]
      assert.are.same({ "exact", "softmax", "gpt2" }, { record.from, record.to, record.scheme })
      assert.are.same({ 2, 8, 5 }, { record.projections.layers, record.projections.features,
                                     record.projections.seed })
      assert.are.equal("learned", pf.checkpoint.model(to):options().positions)
    end)

    it("takes the average of the weights where a run kept one", function()
      local run, to, raw = path "ema", path "of-average", path "of-weights"
      train("ema", SHORT .. ("--data %s --ema 0.9"):format(other))
      local _, err = good(("convert --checkpoint %s --attention softmax --out %s"):format(run, to))
      assert.truthy(err:find "of the average of the weights", err)
      good(("convert --checkpoint %s --attention softmax --average off --out %s"):format(run, raw))
      assert.are.same(bytes_of(run), bytes_of(raw))
      assert.are.equal(loss_of(run, other), loss_of(to, other))
      assert.is_true(loss_of(raw, other) ~= loss_of(to, other))
    end)

    it("makes of a llama2.c model what generate writes with, given its vocabulary", function()
      local folder, to = support.folder(), path "llama"
      finally(function() support.remove(folder) end)
      local model = setmetatable({ config = {} }, { __index = foreign.models.llama2c })
      for key, value in pairs(foreign.models.llama2c.config) do model.config[key] = value end
      model.config.vocab_size = 262
      foreign.write(folder, model.config, foreign.numbers(model, 1))
      support.write(folder .. "/tok.bin", foreign.vocabulary { { " ", -9 }, { "a", -9 },
                                                               { "b", -9 } })
      good(("convert --checkpoint %s --attention softmax --out %s"):format(folder, to))
      local write = ("generate --checkpoint %s --prompt ab --tokens 4 --threads 1"):format(to)
      assert.truthy(good(write .. " --vocabulary " .. folder .. "/tok.bin"):find "^ab")
      support.write(folder .. "/short.bin", foreign.vocabulary { { " ", -9 } })
      local code, _, err = performer(write .. " --vocabulary " .. folder .. "/short.bin")
      assert.are.equal(1, code)
      assert_sentence(err, "has 260 tokens, and %S+ knows 262: give the vocabulary that it was")
    end)

    it("says which options do nothing under the attention that it puts there", function()
      for i, case in ipairs {
        { "--attention exact --features 5", "convert: --features does nothing here: it is for "
          .. "attention by a feature map" },
        { "--merge --ratio 2", "convert: --ratio does nothing here: it is for --attention NAME" },
        { "--attention relu --features 5 --ratio 2" },
      } do
        local _, err = good(("convert --checkpoint %s --out %s %s"):format(book,
          path("told" .. i), case[1]))
        assert.are.equal(case[2] ~= nil, err:find("does nothing", 1, true) ~= nil, err)
        assert.is_truthy(err:find(case[2] or "", 1, true), err)
      end
      local code, _, err = performer(("convert --checkpoint %s --out %s --attention exact "
        .. "--window 4"):format(book, path "x"))
      assert.are.equal(2, code)
      assert_sentence(err, "convert: %-%-window is for %-%-attention sliding")
    end)

    it("says what it can't do", function()
      local function says(code, pattern, arguments)
        local got, _, err = performer("convert " .. arguments)
        assert.are.equal(code, got)
        assert_sentence(err, pattern)
      end
      says(2, "needs %-%-checkpoint FOLDER and %-%-out FOLDER", "--checkpoint " .. book)
      says(2, "say what is to be another: %-%-attention NAME, or %-%-merge",
        ("--checkpoint %s --out %s"):format(book, path "x"))
      says(2, "there is no 'softmx' %(did you mean 'softmax'%?%)",
        ("--checkpoint %s --out %s --attention softmx"):format(book, path "x"))
      says(2, "holds a run already; choose another %-%-out",
        ("--checkpoint %s --out %s --attention relu"):format(book, book))
      says(1, "nowhere: No such file or directory; check the path",
        ("--checkpoint %s --out %s --attention relu"):format(path "nowhere", path "x"))
    end)
  end)

  describe("train --init", function()
    it("takes a run's model and weights, with data and a schedule of its own", function()
      local run, _, err = commands.train("init", SHORT .. ("--data %s --init %s --lr 1e-6")
        :format(other, book))
      assert.truthy(err:find "init   %S+book: %d+ loaded, 0 missing, 0 unexpected, 0 misshapen")
      assert.are.equal(pf.checkpoint.model(book):count(), (pf.checkpoint.model(run):count()))
      local first = log_of(run)[1]
      assert.are.equal(book, first.init.path)
      assert.are.equal(0, #first.init.missing + #first.init.unexpected + #first.init.misshapen)
      assert.near(loss_of(book, other), loss_of(run, other), 0.01)
    end)

    it("takes the model's options from the run, but for those that are typed", function()
      local run = path "typed"
      good(("train --out %s %s --data %s --init %s --batch 2 --attention exact --head-decay 0")
        :format(run, SHORT, other, book))
      local options = pf.checkpoint.model(run):options()
      local before = pf.checkpoint.model(book):options()
      assert.are.same({ before.dim, before.layers, "exact" },
        { options.dim, options.layers, options.attention })
    end)

    it("takes a file, by its names or by a map", function()
      local file, map = path "w.safetensors", path "map.lua"
      local under = {}
      for name, tensor in pairs(pf.checkpoint.model(book):tensors()) do
        under["model." .. name] = tensor
      end
      under["model.norm.weight"], under.extra = nil, pf.zeros(3)
      pf.save(file, under)
      support.write(map, [[return function(source)
        local made = {}
        for name, tensor in pairs(source) do made[name:gsub("^model%.", "")] = tensor end
        return made
      end]])
      local run, _, err = commands.train("mapped", SHORT .. ("--data %s --init %s --map %s")
        :format(other, file, map))
      assert.truthy(err:find("missing: 'norm.weight' [16]", 1, true), err)
      assert.truthy(err:find("unexpected: 'extra' [3]", 1, true), err)
      local init = log_of(run)[1].init
      assert.are.equal("norm.weight", init.missing[1].name)
      assert.are.same({ 3 }, init.unexpected[1].shape)
      refused(1, "no tensor of it fits the model, the first is 'extra'; say with %-%-map FILE.lua",
        ("--data %s --init %s"):format(other, file))
    end)

    it("says what does not fit", function()
      refused(1, "knows 256 kinds of token, and %S+ is fasta, of %d+: give data of the same kind",
        ("--data %s --init %s"):format(path "p.fasta", book))
      refused(1, "does not fit the model: '%S+' is %[.*leave out the options that make it another",
        ("--data %s --init %s --dim 32"):format(other, book))
      refused(1, "nowhere: No such file or directory; check the path",
        ("--data %s --init %s"):format(other, path "nowhere"))
      refused(2, "%-%-map is for weights from elsewhere: name them with %-%-init",
        ("--data %s --map gpt2"):format(other))
      refused(1, "%-%-map: %S+ must return a table or a function, not a number",
        ("--data %s --init %s --map %s"):format(other, book,
          support.write(path "bad_map.lua", "return 3")))
    end)

    it("knows rows that are longer than learned positions", function()
      local run = path "learned"
      train("learned", SHORT .. ("--data %s --positions learned"):format(other))
      refused(2, "%-%-length 64 is more than the 32 learned positions of %S+; take %-%-length 32",
        ("--data %s --init %s --length 64"):format(path "t.txt", run))
    end)
  end)

  describe("train --freeze", function()
    it("lets parameters stay, says how many are trained, and goes on with the same bits", function()
      local run, _, err = commands.train("frozen", SHORT
        .. ("--data %s --init %s --freeze 'embedding|qkv'"):format(other, book))
      local all, trained = err:match "model  ([%d,]+) parameters, ([%d,]+) of them trained"
      assert.truthy(all ~= trained)
      local before, after = bytes_of(book), bytes_of(run)
      for name, bytes in pairs(after) do
        local stays = name:find "^embedding" or name:find "qkv" or name:find "projection"
          or name:find "decay"
        assert.are.equal(stays ~= nil, bytes == before[name], name)
      end
      local told = records(good(("inspect %s --json"):format(run)))[1]
      assert.are.equal(told.trainable.frozen, tonumber((all:gsub(",", "")))
        - tonumber((trained:gsub(",", ""))))
      assert.truthy(good("inspect " .. run):find "\n *frozen: %d+ of them; adapters: 0\n")
      local last = log_of(run)
      last = last[#last]
      assert.is_true(last.params_trained < last.params)
      good(("train --resume %s/step-3 --out %s --threads 1"):format(run, path "again"))
      assert.are.same(after, bytes_of(path "again"))
    end)

    it("refuses a pattern that fits nothing, and one that leaves nothing", function()
      refused(2, "'embed' fits no parameter; there are embedding.weight, ",
        ("--data %s --freeze embed"):format(other))
      refused(2, "%-%-freeze '%*' leaves nothing to train",
        ("--data %s --freeze '*'"):format(other))
    end)
  end)

  describe("train --adapters", function()
    it("trains them alone, and goes on with the same bits; convert --merge folds them", function()
      local run = train("adapters", SHORT
        .. ("--data %s --init %s --adapters 2 --adapters-scale 2 --lr 0.05"):format(other, book))
      local before, after = bytes_of(book), bytes_of(run)
      local count = 0
      for name, bytes in pairs(after) do
        if name:find "adapter" then count = count + 1 else assert.is_true(bytes == before[name]) end
      end
      assert.are.equal(8, count)
      good(("train --resume %s/step-3 --out %s --threads 1"):format(run, path "adapters2"))
      assert.are.same(after, bytes_of(path "adapters2"))
      local merged = path "merged"
      local record = records(good(("convert --checkpoint %s --merge --out %s --json"):format(run,
        merged)))[1]
      assert.are.equal(4, record.merged)
      assert.near(loss_of(run, other), loss_of(merged, other), 1e-5)
      assert.is_nil(next(pf.checkpoint.model(merged):tree().adapters or {}))
      local same = path "adapters3" -- what is frozen and what is adapted goes along
      good(("convert --checkpoint %s --attention softmax --out %s"):format(run, same))
      assert.are.same(after, bytes_of(same))
      local on = train("on", SHORT .. ("--data %s --init %s --adapters 2 --adapters-on qkv")
        :format(other, run))
      assert.truthy(bytes_of(on)["blocks.1.attention.qkv.adapter.a"])
      assert.is_nil(bytes_of(on)["blocks.1.mlp.up.adapter.a"])
    end)

    it("works for a model of a script", function()
      local script, run = path "own.lua", path "own"
      support.write(script, [[
        local nn = require("performer").nn
        return function(options)
          local gate = { name = "gate", inner = nn.linear { from = options.dim, to = options.dim },
                         forward = function(self, x) return x * self.inner(x):sigmoid() end }
          return nn.chain { nn.embedding { vocab = options.vocab, dim = options.dim },
                            nn.block { dim = options.dim, heads = 2, causal = true,
                                       kernel = { features = 8 } },
                            gate, nn.linear { from = options.dim, to = options.vocab } }
        end]])
      train("own", SHORT .. ("--data %s --model %s --adapters 2 --adapters-on '2.attention'")
        :format(other, script))
      local loss = records(good(("eval --checkpoint %s --data %s --model %s --threads 1 --json")
        :format(run, other, script)))[1].loss
      assert.is_true(loss > 0)
      good(("train --resume %s/step-3 --model %s --out %s --threads 1"):format(run, script,
        path "own2"))
      assert.are.same(bytes_of(run), bytes_of(path "own2"))

      -- Merged, they are not adapted again; as a beginning, adapters are a part of the weights.
      local merged, more = path "own3", " --model " .. script
      local _, err = good(("convert --checkpoint %s --merge --out %s"):format(run, merged) .. more)
      assert.truthy(err:find("for 1 layer: softmax, 8 features", 1, true), err)
      local function own_loss(checkpoint)
        return records(good(("eval --checkpoint %s --data %s --threads 1 --json"):format(checkpoint,
          other) .. more))[1].loss
      end
      assert.near(loss, own_loss(merged), 1e-5)
      train("own4", SHORT .. ("--data %s --init %s --lr 1e-12"):format(other, run) .. more)
      assert.near(loss, own_loss(path "own4"), 1e-4)
      local code
      code, _, err = performer(("convert --checkpoint %s --attention relu --out %s"):format(run,
        path "own5") .. more)
      assert.are.equal(2, code)
      assert_sentence(err, "where a script makes the model %(%-%-model%), change it there")
    end)

    it("says what it can't do", function()
      refused(2, "%-%-adapters%-on is for %-%-adapters RANK",
        ("--data %s --adapters-on qkv"):format(other))
      refused(2, "'head' fits no linear layer; there are blocks.1.attention.qkv",
        ("--data %s --adapters 2 --adapters-on head"):format(other))
    end)
  end)
end)
