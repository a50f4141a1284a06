-- commands_data_spec.lua - where the commands' data come from, what they are taken for, and what is
-- said of records and lengths that don't fit.
local lfs = require "lfs"
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local assert_sentence, good, losses = commands.assert_sentence, commands.good, commands.losses
local path, performer, records = commands.path, commands.performer, commands.records
local SMALL, train = commands.SMALL, commands.train

local STEPS = " --steps 3 --threads 1 "

--- The lines of stderr that say what the data and the model are, without the name of the file.
local function described(err)
  return err:match "\n? *data  .-: ([^\n]*)", err:match "\n(model[^\n]*)"
end

local function write(name, text) return support.write(path(name), text) end

--- Has the machine this program?
local function has(program) return support.shell("command -v " .. program) == 0 end

describe("the data of a command", function()
  local proteins, plain, run -- the text of p.fasta; what a run on it says and computes

  setup(function()
    commands.start()
    proteins = support.read(path "p.fasta")
    local out, err
    run, out, err = train("plain", "--data " .. path "p.fasta" .. STEPS)
    assert.are.equal("", out)
    plain = { table.pack(described(err)), losses(run) }
  end)

  teardown(commands.stop)

  it("come through a pipe as they come from a file", function()
    local ways = {
      { "-", "cat @ |" }, { "/dev/stdin", "gzip -c @ |" }, { "-", "", "< @" },
      { path "fifo", ("mkfifo %s; cat @ > %s &"):format(path "fifo", path "fifo") },
    }
    for i, way in ipairs(ways) do
      local file = path "p.fasta"
      local name = "pipe" .. i
      local code, _, err = support.shell(("%s %s/bin/performer train --data %s --out %s %s %s %s")
        :format(way[2]:gsub("@", file), support.build, way[1], path(name), SMALL, STEPS,
        (way[3] or ""):gsub("@", file)))
      assert.are.equal(0, code, err)
      assert.are.same(plain[1], table.pack(described(err)))
      assert.are.equal(plain[2], losses(path(name)))
    end
    local code, _, err = performer(("train --resume %s --steps 6 --threads 1"):format(path "pipe1"))
    assert.are.equal(1, code)
    assert_sentence(err, "read its data from a pipe %(%-%), which is gone; give.*%-%-data FILE")
    _, err = good(("train --resume %s --steps 6 --threads 1 --data -"):format(path "pipe1"),
      "cat " .. path "p.fasta" .. " |")
    assert.is_nil(err:find "not what the run began with", err)
    local log = commands.log_of(path "pipe1")
    assert.are.equal(6, log[#log].step)
  end)

  it("are FASTA whatever stands before the first record, and get its settings", function()
    local before = { "\xEF\xBB\xBF", "\n", "\r\n", "\n\xEF\xBB\xBF\xEF\xBB\xBF",
                     "# release 7\n\n", "; old style\r\n# and new\n" }
    for i, lines in ipairs(before) do
      local file = write("before.fasta", lines .. proteins)
      local other, _, err = train("before" .. i, "--data " .. file .. STEPS)
      assert.are.same(plain[1], table.pack(described(err)))
      assert.are.equal(plain[2], losses(other))
    end
    local file = write("mark.fasta", "\xEF\xBB\xBF" .. proteins)
    local options = " --dim 16 --layers 1 --heads 2 --features 16 --batch 1" .. STEPS
    good(("train --data %s --out %s"):format(file, path "mark") .. options)
    local state = assert(pf.inspect(path "mark")).state.state
    assert.are.equal(512, state.settings.length)
    assert.are.equal(6, state.settings.model.ngrams.longest)
  end)

  it("are refused by name when they are packed or UTF-16, with a command that helps", function()
    local samples = {
      { "a.xz", "\xFD7zXZ\0 ...", "is xz data.*first: xz %-dc (%S+/a%.xz) | %S+performer train" },
      { "a b.zst", "\x28\xB5\x2F\xFD ...", "is zstd data.*: zstd %-dc '([^']+)' | %S+performer" },
      { "a.txt", "\xFF\xFEa\0b\0", "is UTF%-16 text.*first: iconv %-f UTF%-16 %-t UTF%-8 (%S+) |" },
      { "a.png", "\x89PNG\r\n\x1A\n ...", "is a PNG picture.*%-%-format text takes its bytes" },
    }
    for _, sample in ipairs(samples) do
      local file = write(sample[1], sample[2])
      local code, _, err = performer(("train --data '%s' --out %s"):format(file, path "never"))
      assert.are.equal(1, code)
      assert_sentence(err, sample[3])
      assert.are.equal(sample[1]:find "png" and "is a PNG picture" or file,
        (err:match(sample[3]) or ""):match "^is a PNG picture" or err:match(sample[3]))
    end
    for _, packer in ipairs { "xz", "bzip2", "zstd" } do
      if has(packer) then
        support.shell(("%s -c %s > %s"):format(packer, path "p.fasta", path "packed"))
        local _, _, err = performer(("train --data %s --out %s"):format(path "packed",
          path "never"))
        local advice = assert(err:match "first: (.-) %-%-data %-\n", err)
        local code, _, said = support.shell(("PATH=%s/bin:$PATH; %s --data - --out %s %s %s")
          :format(support.build, advice, path("of" .. packer), SMALL, STEPS))
        assert.are.equal(0, code, said)
        assert.are.equal(plain[2], losses(path("of" .. packer)))
      end
    end
    assert.is_false(commands.exists(path "never"))
    local code, _, err = performer(("eval --checkpoint %s --data %s"):format(run, path "a.xz"))
    assert.are.equal(1, code)
    assert_sentence(err, "a%.xz | %S+performer eval %-%-checkpoint %S+/plain %-%-data %-$")
  end)

  it("are what --format says", function()
    local lines = {}
    for i = 1, 90 do lines[i] = ("> He said: \"%d\"\n\nAnd she, too, left.\n"):format(i) end
    local mail = write("mail.txt", table.concat(lines))
    local code, _, err = performer(("train --data %s --out %s"):format(mail, path "never"))
    assert.are.equal(1, code)
    assert_sentence(err, "mail%.txt:3: 'He': ','.*for plain text say %-%-format text")
    local other
    other, _, err = train("mail", ("--data %s --format text"):format(mail) .. STEPS)
    assert.is_truthy(err:find "data .*: text\n")
    good(("eval --checkpoint %s --data %s"):format(other, mail)) -- as the run was told
    code, _, err = performer(("eval --checkpoint %s --data %s --format text"):format(run, mail))
    assert.are.equal(1, code)
    assert_sentence(err, "reads protein tokens, but .* is text; give it a FASTA file")
    code, _, err = performer(("train --data %s --format fasta --out %s"):format(path "t.txt",
      path "never"))
    assert.are.equal(1, code)
    assert_sentence(err, "before the first '>': no FASTA file; for plain text say %-%-format text")
    code, _, err = performer(("train --resume %s --steps 9 --data %s"):format(other,
      path "p.fasta"))
    assert.are.equal(0, code, err) -- its bytes, as the run was told
    code, _, err = performer(("train --resume %s --steps 9 --data %s"):format(run, path "t.txt"))
    assert.are.equal(1, code)
    assert_sentence(err, "t%.txt is text, of 256 kinds of token; the run's model has 29")
  end)

  it("may leave out bad records", function()
    local file = write("bad.fasta", proteins .. ">pseudo gene\nMKTA*YIAK\n>empty\n>gaps\nM--K\n"
      .. ">good\nMKLV\n")
    local code, _, err = performer(("train --data %s --out %s"):format(file, path "never"))
    assert.are.equal(1, code)
    assert_sentence(err, "bad%.fasta:162: 'pseudo': '%*'.*%-%-skip%-bad%)$")
    local _, _, said = train("bad", ("--data %s --skip-bad"):format(file) .. STEPS)
    assert.is_truthy(said:find "3 of 84 records left out: 'pseudo' in line 162: '%*' after 4")
    assert.is_truthy(said:find "81 sequences, 0 duplicates dropped, 3 left out\n")
    local first, second = table.unpack(commands.log_of(path "bad"))
    assert.are.same({ "fasta", 81, 0, 3, file }, { first.data.format, first.data.documents,
      first.data.duplicates, first.data.skipped, first.data.path })
    assert.is_truthy(first.data.skips:find "^'pseudo' in line 162: '%*'.*; 'empty'.*; 'gaps'")
    local same = assert(pf.data.open { path = file, skip_bad = true })
    assert.are.equal(same:info().checksum, first.data.checksum)
    assert.is_nil(second.data)
    local out
    out, err = good(("eval --checkpoint %s --data %s --skip-bad --per-sequence --json"):format(run,
      file))
    assert.are.equal(81, #records(out))
    assert.is_truthy(err:find "3 of 84 records left out")
    write("worse.fasta", ">a\nM*K\n>b\nM7\n")
    code, _, err = performer(("eval --checkpoint %s --data %s --skip-bad"):format(run,
      path "worse.fasta"))
    assert.are.equal(1, code)
    assert_sentence(err, "no sequences: none of 2 records can be read: 'a' in line 2: '%*'.*; 'b'")
  end)

  it("have a line each in eval --per-sequence, copies too, and count in the whole", function()
    local file = write("copies.fasta", ">a\nMKTAYIAKQR\n>b\nMKTAYIAKQR\n>c\nMKVLLAAG\n>a\nM\n")
    local lines = records((good(("eval --checkpoint %s --data %s --per-sequence --json"):format(run,
      file))))
    local names, sum, tokens = {}, 0, 0
    for i, line in ipairs(lines) do
      names[i], tokens = line.name, tokens + line.tokens
      sum = sum + line.loss * line.tokens
    end
    assert.are.same({ "a", "b", "c", "a" }, names)
    assert.are.equal(lines[1].loss, lines[2].loss)
    local whole = records((good(("eval --checkpoint %s --data %s --json"):format(run, file))))[1]
    assert.are.equal(11 + 11 + 9 + 2, tokens)
    assert.are.equal(tokens, whole.tokens)
    assert.is_true(math.abs(whole.loss - sum / tokens) < 1e-5)
    local said = {}
    for i, split in ipairs { "train", "valid" } do
      said[i] = select(2, good(("eval --checkpoint %s --data %s --split %s"):format(run, file,
        split)))
    end
    assert.are.equal("eval: copies of sequences count once, as in training: 1\n",
      table.concat(said))
  end)

  it("may be shorter than --length", function()
    local code, _, err = performer(("train --data %s --length 1000000 --out %s"):format(
      path "t.txt", path "never"))
    assert.are.equal(2, code)
    local most = math.tointeger(err:match "take %-%-length (%d+) or less")
    assert_sentence(err, "%-%-length 1000000 is more than .*t%.txt holds: its training part has")
    assert.are.equal(#support.read(path "t.txt") - #support.read(path "t.txt") // 10 - 1, most)
    code, _, err = performer(("train --data %s --length 1 --out %s"):format(path "t.txt",
      path "never"))
    assert.are.equal(2, code)
    assert_sentence(err, "^performer: %-%-length must be a whole number from 2 to %d+, got 1$")
    local file = write("short.fasta", ">a\nMKTAYIAKQR\n>b\nMKVLLAAG\n")
    local evaluate = ("eval --checkpoint %s --data %s --json"):format(run, file)
    local out
    out, err = good(evaluate .. " --length 1000000")
    assert.is_truthy(err:find "%-%-length 1000000 is more than .* holds; a row has all of its 22")
    assert.are.equal(20, records(out)[1].tokens)
    assert.is_true(math.abs(records(out)[1].loss - records((good(evaluate)))[1].loss) < 1e-5)
  end)

  it("may be shards, which train as the text that they were made of", function()
    local text, shards = path "t.txt", path "shards"
    local out, err = good(("shard --data %s --out %s --block 512 --json"):format(text, shards))
    local made = records(out)[1]
    assert.are.equal("text", made.format)
    assert.is_truthy(err:find "train on them with: %S+performer train .*shards")
    local whole = train("whole", ("--data %s%s"):format(text, STEPS))
    local parts = train("parts", ("--data %s%s"):format(shards, STEPS))
    assert.are.same(losses(whole), losses(parts))
    good(("train --resume %s --steps 6"):format(whole))
    good(("train --resume %s --steps 6"):format(parts))
    assert.are.same(losses(whole), losses(parts))
    out = good(("eval --checkpoint %s --data %s --json"):format(parts, shards))
    assert.are.equal(made.tokens + made.valid_tokens + 1, records(out)[1].tokens)
    -- what a killed one has left goes, and what another wrote or is writing stays
    local dead = io.popen("sh -c 'echo $$'"):read "n"
    local names = { left = "more.tmp-" .. dead, alive = "more.tmp-1", other = "mores.tmp-" .. dead,
                    mine = ("more.tmp-%dx"):format(dead) }
    for _, name in pairs(names) do
      lfs.mkdir(path(name))
      support.write(path(name) .. "/shard-0", "half")
    end
    good(("shard --data %s --out %s"):format(text, path "more"))
    for what, name in pairs(names) do
      assert.are.equal(what ~= "left", lfs.attributes(path(name)) ~= nil, what)
    end
    local code, said, why = performer(("shard --data %s --out %s"):format(text, shards))
    assert.are.equal(1, code)
    assert.are.equal("", said)
    assert_sentence(why, "is there already, and holds something")
    code, said, err = performer(("shard --data %s"):format(text))
    assert.are.equal(2, code)
    assert.are.equal("", said)
    assert_sentence(err, "%-%-data FILE and %-%-out FOLDER are needed")
    code, said, err = performer(("train --data %s --valid %s --out %s"):format(shards, text,
      path "never"))
    assert.are.equal(1, code)
    assert.are.equal("", said)
    assert_sentence(err, "have their validation part, of when they were made")
  end)

  it("are not guessed to be bytes where a checkpoint has no tokenizer", function()
    support.write(path "bare.lua", ([[
      local pf = require "performer"
      local model = pf.nn.performer { vocab = 29, dim = 16, layers = 1, heads = 2, length = 32,
                                      causal = true, kernel = { name = "softmax", features = 8 } }
      assert(pf.checkpoint.save("%s", { model = model, step = 1 }))]]):format(path "bare"))
    good(path "bare.lua")
    local data = " --data " .. path "p.fasta"
    for command, more in pairs { eval = data, generate = " --tokens 3 --prompt MK" } do
      local line = ("%s --checkpoint %s%s"):format(command, path "bare", more)
      local code, out, err = performer(line)
      assert.are.equal(1, code)
      assert.are.equal("", out)
      assert_sentence(err, "has no tokenizer saved.*%-%-tokenizer byte or %-%-tokenizer protein")
      good(line .. " --tokenizer protein")
    end
    local code, _, err = performer(("eval --checkpoint %s%s --tokenizer byte"):format(run, data))
    assert.are.equal(2, code)
    assert_sentence(err, "was saved with the protein tokenizer; leave out %-%-tokenizer byte")
  end)

  it("are complained of in the words of the command line", function()
    for line, want in pairs {
      ["train --data %s --valid-fraction 0.95"] = { 2, "train: %-%-valid%-fraction must be" },
      ["train --data %s --split homology --identity 0.1"] = { 2, "train: %-%-identity must be" },
      ["shard --data %s --block 10"] = { 2, "shard: %-%-block must be a whole number from 64" },
      ["train --data %s --format text --split homology"] = { 1, ": %-%-split homology is for seq" },
    } do
      local code, _, err = performer(line:format(path "p.fasta") .. " --out " .. path "none")
      assert.are.equal(want[1], code)
      assert_sentence(err, want[2])
    end
  end)
end)
