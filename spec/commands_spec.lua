-- commands_spec.lua - the commands train, eval, generate, inspect and bench as their users meet
-- them: exit codes, one sentence for a mistake, equal bits, the fields of --json.
local pf = require "performer"
local cli = require "performer.cli"
local support = require "spec.support"

-- The smallest model that still has every part.
local SMALL = " --dim 16 --layers 1 --heads 2 --features 16 --length 32 --batch 4 "

local folder

--- Runs `performer arguments` in a shell; `before` stands in front (assignments, limits).
local function performer(arguments, before)
  return support.shell(("%s OMP_WAIT_POLICY=passive %s/bin/performer %s"):format(before or "",
    support.build, arguments))
end

local function path(name) return folder .. "/" .. name end

local function exists(name)
  local file = io.open(name, "rb")
  if file then file:close() end
  return file ~= nil
end

--- Runs, and raises with what it said when it fails; stdout, stderr.
local function good(arguments, before)
  local code, out, err = performer(arguments, before)
  if code ~= 0 then error(("performer %s: exit code %s: %s"):format(arguments, code, err), 2) end
  return out, err
end

--- Trains in a fresh run folder `name`, which is returned with stdout and stderr.
local function train(name, more)
  local run = path(name)
  local out, err = good(("train --out %s %s %s"):format(run, SMALL, more))
  return run, out, err
end

--- Every line of `text` as JSON.
local function records(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do
    local record, message = pf.json.decode(line)
    if type(record) ~= "table" then error(("no JSON: %s (%s)"):format(line, message), 2) end
    list[#list + 1] = record
  end
  return list
end

local function log_of(run) return records(support.read(run .. "/log.jsonl")) end

--- The numbers of a log that must be the same bits: as text, one line a record.
local function losses(run)
  local lines = {}
  for _, r in ipairs(log_of(run)) do
    local words = { tostring(r.step) }
    for _, name in ipairs { "loss", "valid_loss", "train_loss", "valid_accuracy" } do
      words[#words + 1] = r[name] and ("%s %a"):format(name, r[name]) or nil
    end
    lines[#lines + 1] = table.concat(words, " ")
  end
  return table.concat(lines, "\n")
end

--- Fails unless `record` has each field, of the type that is named.
local function assert_fields(record, fields)
  for name, kind in pairs(fields) do
    local value = record[name]
    local is = kind == "integer" and math.tointeger(value) and "integer" or type(value)
    assert.are.equal(kind, is, ("field %s is %s"):format(name, tostring(value)))
    if type(value) == "number" then assert.is_true(value == value and value < math.huge, name) end
  end
end

--- Fails unless stderr is one sentence with `pattern`, from the program, without a traceback.
local function assert_sentence(err, pattern)
  assert.is_nil(err:find("traceback", 1, true), err)
  assert.is_nil(err:find("%.lua:%d"), err)
  local last = err:match "([^\n]*)\n$"
  assert.is_truthy(last, err)
  assert.is_truthy(last:find "^performer: ", err)
  assert.is_truthy(last:find(pattern), ("'%s' is not in: %s"):format(pattern, err))
end

local function write_data()
  local random = { state = 7 }
  function random.below(n)
    random.state = (random.state * 1103515245 + 12345) % 2147483648
    return random.state // 65536 % n
  end
  local letters, lines = "ACDEFGHIKLMNPQRSTVWY", {}
  for i = 1, 80 do
    local t = {}
    for j = 1, 30 + random.below(40) do
      local k = 1 + random.below(20)
      t[j] = letters:sub(k, k)
    end
    lines[#lines + 1] = (">seq%d\nM%s\n"):format(i, table.concat(t))
  end
  support.write(path "p.fasta", table.concat(lines))
  local words = { "the", "river", "runs", "over", "stone", "and", "under", "old", "bridges" }
  local text = {}
  for i = 1, 2500 do
    text[#text + 1] = words[1 + random.below(#words)] .. (i % 9 == 0 and ".\n" or " ")
  end
  support.write(path "t.txt", table.concat(text))
  support.write(path "empty.fasta", "")
  support.write(path "ten.txt", "ten bytes!")
  support.write(path "digit.fasta", ">a\nMKLV\n>b\nMK1LV\n")
  support.shell(("gzip -c %s | head -c 600 > %s"):format(path "p.fasta", path "cut.fasta.gz"))
end

-- A model with a layer in Lua.
local SCRIPT = [[
local pf = require "performer"
local nn = pf.nn
local function gate(dim)
  return {
    name = "gate", inner = nn.linear { from = dim, to = dim },
    forward = function(self, x) return x * self.inner(x):sigmoid() end,
    step = function(self, x) return x * self.inner(x):sigmoid() end,
  }
end
return function(options)
  return nn.chain {
    nn.embedding { vocab = options.vocab, dim = options.dim },
    nn.block { dim = options.dim, heads = options.heads, causal = true,
               kernel = { name = "softmax", features = options.features } },
    gate(options.dim),
    nn.linear { from = options.dim, to = options.vocab },
  }
end
]]

describe("the commands", function()
  local book -- a finished run on text with two checkpoints, which tests may copy, not change

  local function copy(run, name)
    support.shell(("cp -r %s %s"):format(run, path(name)))
    return path(name)
  end

  setup(function()
    folder = support.folder()
    write_data()
    book = train("book", ("--data %s --steps 40 --eval-every 20 --threads 1"):format(path "t.txt"))
  end)

  teardown(function() support.remove(folder) end)

  describe("bad input", function()
    --- arguments, exit code, what the sentence says; @ stands for the folder of the spec.
    local cases = {
      { "train --data @/none.txt", 1, "none%.txt: No such file or directory; check the path" },
      { "train --data @", 1, "is a folder; name a file" },
      { "train --data @/empty.fasta", 1, "the file is empty; give" },
      { "train --data @/cut.fasta.gz", 1, "cut short after %d+ bytes; copy the file again" },
      { "train --data @/digit.fasta", 1,
        "digit%.fasta:4: 'b': '1'.* no amino%-acid letter; correct this record" },
      { "train --data @/ten.txt", 1, "too small to train on.*; give more text" },
      { "train --data @/t.txt --heads 3 --dim 16", 2,
        "%-%-heads 3 does not divide %-%-dim 16; try %-%-heads 2" },
      { "train --data @/t.txt --haeds 4", 2,
        "unknown option '%-%-haeds' %(did you mean '%-%-heads'%?%)" },
      { "train --data @/t.txt --steps many", 2, "%-%-steps: 'many' is not a whole number from 1" },
      { "train --data @/t.txt --steps 0", 2, "%-%-steps: '0' is not a whole number from 1" },
      { "train --data @/t.txt --steps", 2, "'%-%-steps' requires an argument" },
      { "train --data @/t.txt --steps 5 --minutes 1", 2, "%-%-steps or %-%-minutes, not both" },
      { "train --data @/t.txt --attention sofmax", 2, "no 'sofmax' %(did you mean 'softmax'%?%)" },
      { "train --data @/t.txt --act tanhh --steps 5", 2, "'act' must be one of gelu" },
      { "train --data @/t.txt --dropout 2 --steps 5", 2, "'dropout' must be a number from 0" },
      { "train --data @/t.txt --memory much", 2, "memory must be a number of bytes or a text" },
      { "train --data @/t.txt more", 2, "too many arguments" },
      { "train", 2, "%-%-data FILE" },
      { "train --data @/t.txt --out @/t.txt/run --steps 5", 1, "t%.txt is a file; choose another" },
      { "train --data @/t.txt --out /proc/none/run --steps 5", 1,
        "can't make the folder /proc/none: No such file or directory; check the path" },
      { "train --data @/t.txt --out @/book --steps 5", 2, "holds a run already.*%-%-resume" },
      { "train --data @/t.txt --model @/none.lua", 1, "none%.lua: No such file.*; check the path" },
      { "train --resume @/none", 1, "none: No such file or directory; check the path" },
      { "train --resume @", 1, "checkpoint: none in" },
      { "train --resume @/book --dim 32", 2, "%-%-dim can't change with %-%-resume" },
      { "train --resume @/book --steps 30", 2, "has done 40 steps already; %-%-steps must be" },
      { "eval --data @/t.txt", 2, "needs %-%-checkpoint" },
      { "eval --checkpoint @/book --data @/none.txt", 1, "none%.txt: No such file.*; check the" },
      { "eval --checkpoint @/book --data @/p.fasta", 1, "reads byte tokens.*; give it a text" },
      { "eval --checkpoint @/none --data @/t.txt", 1, "none: No such file or directory" },
      { "generate", 2, "needs %-%-checkpoint" },
      { "generate --checkpoint @/book --top-p 2", 2, "%-%-top%-p must be above 0 and at most 1" },
      { "generate --checkpoint @/book --token 2", 2, "did you mean '%-%-tokens'" },
      { "inspect @/t.txt", 1, "t%.txt: no safetensors file" },
      { "inspect @/none", 1, "none: No such file or directory; check the path" },
      { "inspect", 2, "missing argument 'path'" },
      { "bench nothing", 2, "must be one of 'attention'" },
      { "bench attention --kernel rely", 2, "no 'rely' %(did you mean 'relu'%?%)" },
      { "trian", 2, "did you mean 'train'" },
    }

    it("gives one sentence on stderr, and exit code 1 or 2", function()
      for _, case in ipairs(cases) do
        local arguments = case[1]:gsub("@", folder)
        if arguments:find "^train" and not arguments:find "%-%-out" and
            not arguments:find "resume" then
          arguments = arguments .. " --out " .. path "never"
        end
        local code, out, err = performer(arguments)
        assert.are.equal(case[2], code, arguments .. "\n" .. err)
        assert.are.equal("", out, arguments)
        assert_sentence(err, case[3])
        assert.are.equal(1, select(2, err:gsub("\n", "")), arguments .. "\n" .. err)
      end
      assert.is_false(exists(path "never"), "a mistake must not leave a folder behind")
    end)

    it("keeps the traceback for mistakes in a script", function()
      support.write(path "broken.lua", "return function(o)\n  local x\n  return x.y\nend\n")
      local code, _, err = performer(("train --data %s --model %s --out %s"):format(path "t.txt",
        path "broken.lua", path "never"))
      assert.are.equal(1, code)
      assert.is_truthy(err:find "broken%.lua:3: attempt to index")
      assert.is_truthy(err:find("stack traceback", 1, true))
      support.write(path "syntax.lua", "return = 3\n")
      code, _, err = performer(("train --data %s --model %s --out %s"):format(path "t.txt",
        path "syntax.lua", path "never"))
      assert.are.equal(1, code)
      assert.is_truthy(err:find "syntax%.lua:1: unexpected symbol")
      assert.is_nil(err:find("traceback", 1, true))
    end)

    it("says what to do when the byte budget is too small", function()
      local code, _, err = performer(("train --data %s --out %s --memory 600K --threads 1 %s "
        .. "--steps 5"):format(path "t.txt", path "budget", SMALL))
      assert.are.equal(1, code)
      assert_sentence(err, "out of memory.*budget %d+; raise %-%-memory")
    end)

    it("stops when the gradient or the loss is no longer finite", function()
      local code, _, err = performer(("train --data %s --out %s --lr 100000 --threads 1 %s "
        .. "--steps 80"):format(path "t.txt", path "blown", SMALL))
      assert.are.equal(1, code)
      assert_sentence(err, "lower %-%-lr")
    end)

    it("finds a flipped byte, and goes on with the checkpoint before", function()
      local run = copy(book, "flipped")
      local file = assert(io.open(run .. "/step-40/model.safetensors", "r+b"))
      local at = file:seek "end" - 100
      file:seek("set", at)
      local byte = file:read(1):byte()
      file:seek("set", at)
      file:write(string.char(byte ~ 1))
      file:close()
      local code, out, err = performer(("eval --checkpoint %s/step-40 --data %s --json"):format(run,
        path "t.txt"))
      assert.are.equal(1, code)
      assert.are.equal("", out)
      assert_sentence(err, "model%.safetensors in .*step%-40 is damaged.*; copy it again")
      out, err = good(("eval --checkpoint %s --data %s --json"):format(run, path "t.txt"))
      assert.is_truthy(err:find "damaged.*going on with step%-20")
      local older = good(("eval --checkpoint %s/step-20 --data %s --json"):format(book,
        path "t.txt"))
      assert.are.equal(records(older)[1].loss, records(out)[1].loss)
    end)

    it("keeps the last good checkpoint when the disk fills while saving", function()
      local run = copy(book, "full")
      local before = support.read(run .. "/step-40/model.safetensors")
      local code, _, err = support.shell(("trap '' XFSZ; ulimit -f 40; exec %s/bin/performer train "
        .. "--resume %s --steps 60 --eval-every 50 --threads 1"):format(support.build, run))
      assert.are.equal(1, code)
      assert_sentence(err, "step 50 is not saved: .*File too large; raise .*; the last good "
        .. "checkpoint stands; go on with: performer train %-%-resume")
      assert.is_false(exists(run .. "/step-50/manifest.json"))
      assert.are.equal("step-40\n", support.read(run .. "/LATEST"))
      assert.are.equal(before, support.read(run .. "/step-40/model.safetensors"))
      assert.are.equal("", (select(2, support.shell(("ls -A %s | grep tmp"):format(run)))))
      good(("train --resume %s --steps 60 --threads 1"):format(run))
      assert.are.equal(60, log_of(run)[#log_of(run)].step)
    end)

    it("says when the output can't be written", function()
      if not exists "/dev/full" then return pending "no /dev/full here" end
      local code, _, err = support.shell(("%s/bin/performer inspect %s --json >/dev/full")
        :format(support.build, book))
      assert.are.equal(1, code)
      assert_sentence(err, "standard output: No space left on device")
    end)
  end)

  describe("exactness", function()
    local more -- the run whose bits all others must have
    local reference

    setup(function()
      more = ("--data %s --steps 150 --eval-every 20 --log-every 1 --dropout 0.1 --redraw 7")
        :format(path "p.fasta")
      reference = losses(train("one", more .. " --threads 1"))
      assert.are.equal(150, select(2, reference:gsub("\n", "")))
      assert.is_truthy(reference:find "\n140 loss %S+ valid_loss %S+\n")
    end)

    it("gives the same losses with 1, 2 and 4 threads", function()
      for _, threads in ipairs { 2, 4 } do
        local run = train("threads" .. threads, ("%s --threads %d"):format(more, threads))
        assert.are.equal(reference, losses(run))
      end
    end)

    --- Starts a run, sends it a signal once `file` is there, and waits: exit code, stderr.
    local function signalled(name, signal, file, options)
      local run = path(name)
      return run, support.shell(([[
        OMP_WAIT_POLICY=passive %s/bin/performer train --out %s %s %s &
        n=0
        while [ ! -s %s/%s ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
        kill -%s $!
        wait $!]]):format(support.build, run, SMALL, options or more .. " --threads 1", run, file,
        signal))
    end

    it("goes on exactly after Ctrl-C", function()
      local run, code, _, err = signalled("interrupted", "INT", "log.jsonl")
      assert.are.equal(130, code)
      assert_sentence(err, "stopped at step %d+; go on with: performer train %-%-resume /")
      local step = math.tointeger(err:match "stopped at step (%d+)")
      assert.is_true(step < 150)
      assert.are.equal(("step-%d\n"):format(step), support.read(run .. "/LATEST"))
      good(("eval --checkpoint %s --data %s"):format(run, path "p.fasta"))
      local command = err:match "go on with: performer ([^\n]+)"
      good(command .. " --threads 2")
      assert.are.equal(reference, losses(run))
    end)

    it("goes on exactly after Ctrl-C in an evaluation", function()
      -- One row a batch makes evaluating long and a step short.
      local often = ("--data %s --steps 30 --eval-every 1 --log-every 1 --batch 1 --threads 1")
        :format(path "p.fasta")
      local whole = losses(train("often", often))
      local run, code, _, err = signalled("paused", "INT", "log.jsonl", often)
      assert.are.equal(130, code, err)
      good(("train --resume %s --threads 1"):format(run))
      assert.are.equal(whole, losses(run))
    end)

    it("goes on exactly after a kill", function()
      local run, code = signalled("killed", "KILL", "LATEST")
      assert.are_not.equal(0, code)
      assert.is_nil(support.read(run .. "/log.jsonl"):find '"final"')
      good(("train --resume %s --threads 1"):format(run))
      assert.are.equal(reference, losses(run))
    end)

    it("goes on from an older checkpoint in another folder", function()
      good(("train --resume %s/step-140 --out %s --threads 1"):format(path "one", path "fork"))
      assert.are.equal(reference, losses(path "fork"))
      assert.are.equal(reference, losses(path "one"))
    end)

    it("fixes the steps of --minutes, and writes them down", function()
      local run, _, err = train("minutes", ("--data %s --minutes 0.01 --threads 1"):format(
        path "t.txt"))
      local steps = math.tointeger(err:match "steps  (%d+), as many as 0.01 minutes take")
      local log = log_of(run)
      assert.are.equal(steps, log[#log].steps)
      assert.are.equal(steps, log[#log - 1].step)
    end)

    it("resumes a run of --minutes whose steps were not fixed yet", function()
      local run, code, _, err = signalled("early", "INT", "log.jsonl",
        ("--data %s --minutes 0.02 --threads 1"):format(path "t.txt"))
      assert.are.equal(130, code, err)
      good(("train --resume %s --threads 1"):format(run))
      local log = log_of(run)
      assert.is_true(log[#log].final)
      assert.are.equal(log[#log].steps, log[#log - 1].step)
    end)

    it("says that a finished run has finished, and how to train longer", function()
      local out, err = good(("train --resume %s --json"):format(book))
      assert.is_truthy(err:find "has finished its 40 steps; train longer with: .* %-%-steps 80")
      assert.is_true(records(out)[1].final)
      local run = copy(book, "longer")
      good(("train --resume %s --steps 50 --threads 1"):format(run))
      local log = log_of(run)
      assert.are.equal(50, log[#log].step)
      local finals = 0
      for _, record in ipairs(log) do finals = finals + (record.final and 1 or 0) end
      assert.are.equal(1, finals)
    end)

    it("warns when the data is not what the run began with", function()
      support.write(path "other.txt", support.read(path "t.txt") .. "and more\n")
      local _, err = good(("train --resume %s --data %s --steps 45 --threads 1"):format(
        copy(book, "other"), path "other.txt"))
      assert.is_truthy(err:find "is not what the run began with")
    end)
  end)

  describe("--json", function()
    it("of train prints the log and nothing else", function()
      local run, out, err = train("json", ("--data %s --steps 20 --threads 1 --json"):format(
        path "p.fasta"))
      local list = records(out)
      assert.are.equal(support.read(run .. "/log.jsonl"), out)
      for i = 1, #list - 1 do
        assert_fields(list[i], { step = "integer", loss = "number", lr = "number",
          tokens_per_s = "number", seconds = "number", bytes_peak = "integer" })
      end
      assert_fields(list[#list], { final = "boolean", train_loss = "number", valid_loss = "number",
        valid_perplexity = "number", valid_accuracy = "number", baseline_perplexity = "number",
        tokens = "integer", params = "integer" })
      assert.is_true(math.abs(math.exp(list[#list].valid_loss) / list[#list].valid_perplexity - 1)
        < 1e-9)
      assert.is_truthy(err:find "training tokens")
    end)

    it("of eval: the file, and each sequence", function()
      local run = path "json"
      local fields = { loss = "number", perplexity = "number", accuracy = "number",
                       tokens = "integer", tokens_per_s = "number" }
      local whole = records((good(("eval --checkpoint %s --data %s --json"):format(run,
        path "p.fasta"))))
      assert.are.equal(1, #whole)
      assert_fields(whole[1], fields)
      local each = records((good(("eval --checkpoint %s --data %s --per-sequence --json"):format(
        run, path "p.fasta"))))
      fields.name = "string"
      local loss, tokens = 0, 0
      for _, record in ipairs(each) do
        assert_fields(record, fields)
        loss, tokens = loss + record.loss * record.tokens, tokens + record.tokens
      end
      assert.are.equal(80, #each)
      assert.are.equal("seq1", each[1].name)
      assert.is_true(tokens >= whole[1].tokens) -- a row's last token has no target
      assert.is_true(math.abs(loss / tokens - whole[1].loss) < 0.2)
    end)

    it("of eval --per-sequence is the same for a text that goes through in pieces", function()
      local text = support.read(path "t.txt")
      assert.is_true(#text > 2 * 4096)
      local each = records((good(("eval --checkpoint %s --data %s --per-sequence --json"):format(
        book, path "t.txt"))))
      assert.are.equal(#text - 1, each[1].tokens)
      local model = assert(pf.checkpoint.model(book))
      local ids = pf.tokenizer.byte():encode(text)
      local n = ids:numel()
      local logits = model(ids:slice(1, 1, n - 1):reshape(1, -1))
      local loss = logits:cross_entropy(ids:slice(1, 2, n):reshape(1, -1)):item()
      assert.is_true(math.abs(loss - each[1].loss) < 1e-4)
    end)

    it("of generate is UTF-8, whatever the model writes", function()
      local record = records((good(("generate --checkpoint %s --prompt 'the ' --tokens 40 "
        .. "--temperature 3 --json"):format(book))))[1]
      assert_fields(record, { text = "string", tokens = "integer", tokens_per_s = "number",
                              state_bytes = "integer" })
      assert.are.equal(40, record.tokens)
      assert.is_truthy(utf8.len(record.text))
      assert.are.equal("the ", record.text:sub(1, 4))
      local plain = good(("generate --checkpoint %s --prompt 'the ' --tokens 40 --temperature 3")
        :format(book))
      assert.are.equal(record.text, cli.utf8((plain:gsub("\n$", ""))))
      local again = records((good(("generate --checkpoint %s --tokens 30 --temperature 0 --json")
        :format(book))))[1]
      assert.are.equal(again.text, records((good(("generate --checkpoint %s --tokens 30 "
        .. "--temperature 0 --seed 9 --json"):format(book))))[1].text)
    end)

    it("replaces what is not UTF-8", function()
      for text, wanted in pairs {
        ["plain"] = "plain", ["\xff"] = "\u{FFFD}", ["a\xc3"] = "a\u{FFFD}",
        ["\xc3\xa4\x80b"] = "ä\u{FFFD}b", ["\xed\xa0\x80"] = "\u{FFFD}\u{FFFD}\u{FFFD}",
        ["a\0b"] = "a\u{FFFD}b", [""] = "",
      } do
        assert.are.equal(wanted, cli.utf8(text))
      end
      assert.are.equal('{"a":["\u{FFFD}"]}', cli.json { a = { "\xfe" } })
    end)

    it("of inspect tells what the folder holds", function()
      local record = records((good(("inspect %s --json"):format(book))))[1]
      assert_fields(record, { tensors = "table", params = "integer", bytes = "integer",
                              metadata = "table" })
      local bytes = 0
      for _, tensor in ipairs(record.tensors) do
        assert_fields(tensor, { name = "string", dtype = "string", shape = "table",
                                bytes = "integer" })
        bytes = bytes + tensor.bytes
      end
      assert.are.equal(record.bytes, bytes)
      assert.are.equal(log_of(book)[#log_of(book)].params, record.params)
      local file = records((good(("inspect %s/step-40/model.safetensors --json"):format(book))))[1]
      assert.are.same(record.tensors, file.tensors)
    end)

    local shape = { B = "integer", H = "integer", L = "integer", d = "integer", m = "integer",
                    C = "integer", causal = "boolean", kernel = "string", threads = "integer",
                    cpu = "string", blas = "string" }

    local function with(more)
      local fields = {}
      for name, kind in pairs(shape) do fields[name] = kind end
      for name, kind in pairs(more) do fields[name] = kind end
      return fields
    end

    local function bench(arguments)
      return records((good(("bench %s --json --repeats 1"):format(arguments))))
    end

    it("of bench attention: each attention beside the GEMM rate, and what it keeps", function()
      for _, causal in ipairs { "", "--causal" } do
        local list = bench("attention --length 512 --heads 2 --head-dim 32 --features 64 "
          .. causal)
        local names = {}
        for i, r in ipairs(list) do
          names[i] = r.which
          assert_fields(r, with { which = "string", forward_ms = "number",
            forward_backward_ms = "number", gflops = "number", gemm_gflops = "number",
            fraction_of_gemm = "number", fraction_of_gemm_backward = "number",
            bytes_saved = "integer", bytes_peak = "integer" })
          local rows = r.B * r.H * r.L
          local qkvo = 4 * rows * 4 * r.d
          if r.which == "identity" then
            assert.is_true(r.bytes_saved <= qkvo)
          else -- q, k, v, out and at most two numbers a row
            assert.is_true(r.bytes_saved > qkvo and r.bytes_saved <= qkvo + 2 * 4 * rows,
              ("%s saves %d beyond q, k, v, out, for %d rows"):format(r.which,
                r.bytes_saved - qkvo, rows))
          end
          assert.is_true(r.bytes_peak >= qkvo)
        end
        assert.are.same({ "favor", "exact", "identity" }, names)
      end
    end)

    it("of bench block, train, generate, gemm and features", function()
      local small = " --heads 2 --head-dim 16 --features 32 --layers 1"
      local block = bench("block --length 64" .. small)
      assert.are.equal(3, #block)
      for _, r in ipairs(block) do
        assert_fields(r, with { which = "string", forward_ms = "number",
          forward_backward_ms = "number", ratio_to_identity = "number", bytes_peak = "integer" })
      end
      assert.are.equal(1, block[3].ratio_to_identity)
      local step = bench("train --length 64" .. small)[1]
      assert_fields(step, with { tokens_per_s = "number", flops_per_token = "integer",
                                 fraction_of_gemm = "number", lua_share = "number" })
      assert.is_true(step.lua_share >= 0 and step.lua_share < 1)
      -- 6 flops for each of 4 D^2 + 8 D^2 weights and the head's D V, and attention's.
      assert.are.equal(6 * (12 * 32 * 32 + 32 * 256) + 2 * (8 * 32 * 16 + 12 * 32 * 17),
                       step.flops_per_token)
      local generated = bench("generate --length 8 --tokens 4" .. small)[1]
      assert_fields(generated, with { prompt = "integer", tokens_per_s = "number",
        state_bytes = "integer", weight_bytes = "integer", bandwidth_gb_s = "number",
        fraction_of_bandwidth = "number" })
      local features = bench "features --head-dim 16 --features 32 --draws 2000 --norm 0.5"
      for _, r in ipairs(features) do
        assert_fields(r, { features = "integer", norm = "number", predicted_rel_mse = "number",
                           measured_rel_mse = "number", bias_sigma = "number" })
        assert.is_true(r.predicted_bias ~= 0 or
          math.abs(r.bias_sigma) < 5 and math.abs(r.bias_sigma_negative) < 5)
      end
      local plain = features[1]
      assert.are.equal("iid", plain.rows)
      assert.is_true(math.abs(plain.measured_rel_mse / plain.predicted_rel_mse - 1) < 0.25)
      assert.is_true(features[2].measured_rel_mse < 1.1 * plain.predicted_rel_mse)
      local gemm = bench "gemm --heads 1 --head-dim 16 --features 32"
      assert_fields(gemm[1], { n = "integer", gflops = "number", threads = "integer" })
      assert.are.equal(512, gemm[1].n)
    end)

    it("of bench at several lengths, and the same figures as a table", function()
      local small = " --heads 1 --head-dim 16 --features 32 --repeats 1 "
      local list = bench("attention --length 64,1k --which favor" .. small)
      assert.are.same({ 64, 1024 }, { list[1].L, list[2].L })
      assert_fields(list[2], { forward_us_per_token = "number",
                               forward_backward_us_per_token = "number" })
      local out = good("bench block --length 32,64 --causal" .. small)
      local lines = {}
      for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
      assert.are.equal(2 + 2 * 3, #lines)
      assert.matches("^bench block: 1 thread, .*, B 1, H 1, d 16, m 32, kernel softmax, causal$",
                     lines[1])
      assert.matches("^attention +length +forward ms +fwd%+bwd ms +x identity +peak$", lines[2])
      assert.matches("^favor +32 .* [KM]iB$", lines[3])
      assert.matches("^identity +64 .* 1%.000 ", lines[8])
      local code, _, err = performer "bench attention --length 4x"
      assert.are.equal(2, code)
      assert.matches("'4x' is no length", err)
    end)

    it("of bench report: pictures, numbers, and what they were measured with", function()
      local out = path "report"
      local record = bench("report --length 32,64 --heads 1 --head-dim 8 --features 16 --draws 20"
        .. " --out " .. out)[1]
      assert_fields(record, { case = "string", out = "string", seconds = "number" })
      local points = {}
      for _, r in ipairs(records(support.read(out .. "/report.jsonl"))) do
        points[r.case] = (points[r.case] or 0) + 1
      end
      assert.are.equal(4 * 2, points.attention)
      assert.are.equal(7 * 2 * 3, points.features)
      local text = support.read(out .. "/REPORT.md")
      for _, name in ipairs(record.files) do
        if name:find "%.svg$" then
          assert.is_truthy(text:find("](" .. name .. ")", 1, true))
          assert.matches("^<svg .*</svg>\n$", support.read(out .. "/" .. name))
        end
      end
      assert.matches("processor: %S.*performer bench report .*%-%-length 32,64", text)
      local code, _, err = performer "bench report"
      assert.are.equal(2, code)
      assert.matches("needs %-%-out DIR", err)
    end)
  end)

  describe("output", function()
    it("has no escape and no carriage return in a pipe", function()
      local run, out, err = train("piped", ("--data %s --steps 60 --eval-every 10 --threads 1")
        :format(path "t.txt"))
      local more, also = good(("eval --checkpoint %s --data %s"):format(run, path "t.txt"))
      for _, text in ipairs { out, err, more, also } do assert.is_nil(text:find "[\27\r]") end
      assert.is_truthy(err:find "\nstep 50/60  loss %d")
    end)

    it("is one line on a terminal, rewritten in place and never wider than it", function()
      local have = support.shell "command -v script"
      if have ~= 0 then return pending "no script(1), which makes terminals" end
      local command = ("stty cols 40; exec %s/bin/performer train --data %s --out %s %s --steps 60 "
        .. "--eval-every 10 --threads 1"):format(support.build, path "t.txt", path "terminal",
        SMALL)
      local _, out = support.shell(("script -qec '%s' /dev/null"):format(command))
      local seen = 0
      for line in out:gmatch "\r([^\r\n]*)\27%[K" do
        seen = seen + 1
        assert.is_true(#line < 40, line)
        assert.is_truthy(line:find "^step %d+/60  ")
      end
      assert.is_true(seen >= 3)
      assert.is_nil(out:find "\27%[[^K]")
    end)

    it("of --help shows options and examples", function()
      for _, command in ipairs { "train", "eval", "generate", "inspect", "bench" } do
        local out, err = good(command .. " --help")
        assert.are.equal("", err)
        assert.is_truthy(out:find("Usage: performer " .. command, 1, true))
        assert.is_truthy(out:find("Examples:\n  performer " .. command, 1, true))
        assert.is_truthy(out:find("--json", 1, true))
      end
      local out = good "--help"
      for _, command in ipairs { "train", "eval", "generate", "inspect", "bench" } do
        assert.is_truthy(out:find("\n  " .. command, 1, true))
      end
    end)

    it("has a picture that is well-formed XML, whatever the file is called", function()
      support.shell(("cp %s '%s'"):format(path "t.txt", path "a<b> & \"c\".txt"))
      local run = train("picture", ("--data '%s' --steps 30 --eval-every 10 --threads 1"):format(
        path "a<b> & \"c\".txt"))
      local text = support.read(run .. "/loss.svg")
      local open, rest = {}, text
      rest = rest:gsub("<(/?)([%a]+)([^<>]*)>", function(closing, name, attributes)
        if closing == "/" then
          assert.are.equal(name, table.remove(open))
        elseif attributes:sub(-1) ~= "/" then
          open[#open + 1] = name
        end
        local left = attributes:gsub('%s+[%w%-]+="[^"<]*"', ""):gsub("/$", "")
        assert.are.equal("", left)
        return ""
      end)
      assert.are.same({}, open)
      assert.is_nil(rest:find "[<>]")
      assert.is_nil(rest:gsub("&%a+;", ""):find "&")
      assert.is_truthy(text:find("a&lt;b&gt; &amp; &quot;c&quot;.txt", 1, true))
      assert.is_truthy(text:find '<svg xmlns="http://www.w3.org/2000/svg"')
    end)
  end)

  describe("models", function()
    it("--bidirectional trains on masks, is evaluated on them, and does not generate", function()
      local lines = {}
      for i = 1, 64 do -- a sequence that a mask's neighbours tell
        lines[i] = (">s%d\n%s\n"):format(i, ("ACDEFGHIKL"):rep(4):sub(1 + i % 10, 20 + i % 17))
      end
      support.write(path "cycle.fasta", table.concat(lines))
      local run = train("masked", ("--data %s --steps 250 --bidirectional --threads 1"):format(
        path "cycle.fasta"))
      local log = log_of(run)
      assert.is_true(log[#log].train_loss < 0.7 * log[1].loss)
      assert.is_true(log[#log].valid_perplexity < log[#log].baseline_perplexity)
      local whole = records((good(("eval --checkpoint %s --data %s --json"):format(run,
        path "cycle.fasta"))))[1]
      assert.is_true(whole.loss < log[1].loss)
      local each = records((good(("eval --checkpoint %s --data %s --per-sequence --json"):format(
        run, path "cycle.fasta"))))
      assert.is_true(each[1].tokens == 20 and each[1].loss < log[1].loss)
      local code, out, err = performer("generate --checkpoint " .. run)
      assert.are.equal(1, code)
      assert.are.equal("", out)
      assert_sentence(err, "bidirectional model.*train one without %-%-bidirectional")
    end)

    it("--model trains an own architecture, whose checkpoints need their script", function()
      local script = support.write(path "own.lua", SCRIPT)
      local run = train("own", ("--data %s --steps 20 --threads 1 --model %s"):format(path "t.txt",
        script))
      local data = " --data " .. path "t.txt"
      for _, arguments in ipairs { "eval --checkpoint " .. run .. data,
                                   "generate --checkpoint " .. run,
                                   "train --steps 30 --resume " .. run } do
        local code, _, err = performer(arguments)
        assert.are.equal(1, code)
        assert_sentence(err, "layer 'gate' lives in a script; name that script with %-%-model")
      end
      local loss = records((good(("eval --checkpoint %s --model %s --json"):format(run, script)
        .. data)))[1].loss
      assert.is_true(loss < log_of(run)[1].loss)
      good(("generate --checkpoint %s --model %s --tokens 5"):format(run, script))
      good(("train --resume %s --model %s --steps 30 --threads 1"):format(run, script))
      local whole = train("own30", ("--data %s --steps 30 --threads 1 --model %s"):format(
        path "t.txt", script))
      assert.are.equal(log_of(whole)[1].loss, log_of(run)[1].loss)
    end)
  end)
end)
