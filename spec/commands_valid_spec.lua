-- commands_valid_spec.lua - the data of train: several files, shards, files to be judged on, and
-- data that change while a run trains, or before it goes on.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local assert_sentence, copy, exists, good = commands.assert_sentence, commands.copy,
  commands.exists, commands.good
local log_of, losses, path, performer = commands.log_of, commands.losses, commands.path,
  commands.performer
local records, train = commands.records, commands.train

local MORE = "--steps 12 --eval-every 4 --log-every 1 --keep 9 --threads 1"

--- Halves of the text, another one, and a sequence file that shares some with p.fasta.
local function write_parts()
  local text = support.read(path "t.txt")
  support.write(path "a.txt", text:sub(1, 6000))
  support.write(path "b.txt", text:sub(6001))
  support.write(path "v.txt", (text:sub(1, 3000):gsub("river", "ocean"):gsub("old", "new")))
  local proteins = support.read(path "p.fasta")
  support.write(path "v.fasta", proteins:match "^.-\n>.-\n>.-\n" .. "r\nMKVLAAGIVGLCAKAYPQW\n")
end

describe("a run that is judged on other files", function()
  setup(function()
    commands.start()
    write_parts()
  end)

  teardown(commands.stop)

  it("trains on all of --data, and its best step is the best there", function()
    local run, _, err = train("judged", ("--data %s --valid %s %s"):format(path "t.txt",
      path "v.txt", MORE))
    local log = log_of(run)
    local whole = assert(pf.data.open { path = path "t.txt", split = "none" }):info "train"
    assert.matches(("%d training tokens, 2999 held out: %s\n"):format(whole.tokens, path "v.txt"),
                   err)
    assert.same({ path "t.txt", path "v.txt", 2999 },
                { log[1].data.path, log[1].data.valid, log[1].data.valid_tokens })
    assert.equal(16, #log[1].data.checksum)
    local best
    for _, record in ipairs(log) do
      if record.valid_loss and not (best and best.valid_loss <= record.valid_loss) then
        best = record
      end
    end
    assert.equal(("step-%d\n"):format(best.step), support.read(run .. "/BEST"))
    local judged = records((good(("eval --checkpoint %s --data %s --json"):format(run,
      path "v.txt"))))[1]
    assert.near(judged.loss, log[#log].valid_loss, 1e-5)
    assert.equal(2999, judged.tokens)
  end)

  it("leaves out of training what stands in both", function()
    local run, _, err = train("shared", ("--data %s --valid %s %s"):format(path "p.fasta",
      path "v.fasta", MORE))
    assert.matches("whose 2 sequences that stand in both are not trained on", err)
    assert.equal(2, log_of(run)[1].data.shared)
    assert.equal(3, log_of(run)[1].data.valid_documents)
  end)

  it("says which texts are trained on and held out, in files and in shards", function()
    local files = ("--data %s %s --valid %s %s"):format(path "a.txt", path "b.txt", path "v.txt",
      path "b.txt")
    local _, err = good(("shard %s --out %s"):format(files, path "both"))
    local warning = "b.txt: the same text is trained on and held out, so that"
    assert.truthy(err:find(warning, 1, true), err)
    local run
    run, _, err = train("files_of_both", files .. " " .. MORE)
    assert.truthy(err:find(warning, 1, true), err)
    assert.matches("1 of whose texts are trained on, too\n", err)
    local shards
    shards, _, err = train("shards_of_both", ("--data %s %s"):format(path "both", MORE))
    assert.matches("1 of whose texts are trained on, too\n", err)
    assert.equal(1, log_of(shards)[1].data.shared)
    assert.equal(losses(run), losses(shards))
  end)

  it("goes on to the bit, and asks for a file that is gone", function()
    local valid = support.write(path "moved.txt", support.read(path "v.txt"))
    local run = train("moved", ("--data %s --valid %s %s"):format(path "t.txt", valid, MORE))
    good(("train --resume %s/step-4 --out %s --threads 2"):format(run, path "part"))
    assert.equal(losses(run), losses(path "part"))
    os.remove(valid)
    local code, _, err = performer(("train --resume %s --steps 14"):format(run))
    assert.equal(1, code)
    assert_sentence(err, "moved.txt, which the run is judged on, is not there; say with %-%-valid")
    _, err = good(("train --resume %s --steps 14 --valid %s --threads 1"):format(copy(run, "there"),
      path "v.txt"))
    assert.is_nil(err:find("began with", 1, true))
    _, err = good(("train --resume %s --steps 14 --valid %s --threads 1"):format(copy(run, "else"),
      path "b.txt"))
    assert.matches("is not what the run began with %(.* held out, it had 2999%)", err)
    assert.equal("step-14\n", support.read(path "else/BEST"))
  end)

  it("refuses files of another kind, and two ways to say what is held out", function()
    support.write(path "one.txt", "x")
    for arguments, told in pairs {
      ["t.txt --valid @/p.fasta"] = "unlike the files before it: a data set is all FASTA or all",
      ["p.fasta --valid @/t.txt"] = "unlike the files before it: a data set is all FASTA or all",
      ["t.txt --valid @/none.txt"] = "%-%-valid .*none%.txt: No such file or directory; check the",
      ["t.txt --valid @/empty.fasta"] = "%-%-valid .*empty%.fasta: the file is empty; give",
      ["t.txt --valid @/one.txt"] = "%-%-valid .*one%.txt has no token to predict: 2 are needed",
      ["t.txt --valid @/b.txt --valid-fraction 0.2"] = "give %-%-valid or %-%-valid%-fraction",
      ["t.txt --valid-fraction 1"] = "%-%-valid%-fraction must be between 0 and 1",
    } do
      local command = ("train --data @/%s --out @/never %s"):format(arguments, MORE)
      local code, _, err = performer((command:gsub("@", path ".")))
      assert.is_true(code == 1 or code == 2, arguments)
      assert_sentence(err, told)
      assert.is_false(exists(path "never"))
    end
  end)
end)

describe("the data of a run", function()
  setup(function()
    commands.start()
    write_parts()
  end)

  teardown(commands.stop)

  it("are several files, said in one go or one by one", function()
    local run, _, err = train("two", ("--data %s %s %s"):format(path "a.txt", path "b.txt", MORE))
    assert.matches("data   .*a.txt and 1 more: text", err)
    assert.same({ path "a.txt", path "b.txt" }, log_of(run)[1].data.path)
    local again = train("again", ("--data %s %s --data %s"):format(path "a.txt", MORE,
      path "b.txt"))
    assert.equal(losses(run), losses(again))
    local log = log_of(run)
    local judged = records((good(("eval --checkpoint %s --data %s %s --split valid --json"):format(
      run, path "a.txt", path "b.txt"))))[1]
    assert.near(log[#log].valid_loss, judged.loss, 1e-5)
    good(("train --resume %s/step-8 --out %s --threads 1"):format(run, path "part"))
    assert.equal(losses(run), losses(path "part"))
    os.remove(path "b.txt")
    local code
    code, _, err = performer("train --steps 20 --resume " .. run)
    assert.equal(1, code)
    assert_sentence(err, "b.txt, which the run trains on, is not there; say with %-%-data FILE")
    write_parts()
  end)

  it("hold out whole families with --split homology, and say how near they are", function()
    local run, _, err = train("families", ("--data %s --split homology --identity 0.25 %s"):format(
      path "p.fasta", MORE))
    local told = log_of(run)[1].data
    assert.is_true(told.clusters >= 2 and told.identity.sequences == told.valid_documents)
    assert.matches(("identity to the nearest training sequence %.2f in the median"):format(
      told.identity.median), err)
    local log = log_of(run)
    local judged = records((good(("eval --checkpoint %s --data %s --split valid --json"):format(run,
      path "p.fasta"))))[1]
    assert.near(log[#log].valid_loss, judged.loss, 1e-5)
    assert.equal(told.valid_tokens, judged.tokens)
    good(("train --resume %s/step-8 --out %s --threads 1"):format(run, path "family"))
    assert.equal(losses(run), losses(path "family"))
    _, err = good(("train --resume %s --valid %s --steps 14 --threads 1"):format(run,
      path "v.fasta"))
    assert.matches("is not what the run began with", err)
    for arguments, sentence in pairs {
      ["--identity 0.5"] = "%-%-identity is for %-%-split homology",
      ["--split homology --valid x"] = "give %-%-valid or %-%-split" } do
      local code, _, message = performer(("train --data %s %s"):format(path "p.fasta", arguments))
      assert.equal(2, code)
      assert_sentence(message, sentence)
    end
  end)

  it("hold out as much as --valid-fraction says", function()
    local run = train("more", ("--data %s --valid-fraction 0.3 %s"):format(path "t.txt", MORE))
    local bytes = #support.read(path "t.txt")
    assert.near(0.3 * bytes, log_of(run)[1].data.valid_tokens, 2)
  end)

  it("may be shards, with the same bits for a text; one that has changed loses nothing", function()
    good(("shard --data %s --out %s --block 1000"):format(path "t.txt", path "shards"))
    local run = train("sharded", ("--data %s %s"):format(path "shards", MORE))
    assert.equal(losses(train("file", ("--data %s %s"):format(path "t.txt", MORE))), losses(run))
    good(("train --resume %s/step-8 --out %s --threads 2"):format(run, path "half"))
    assert.equal(losses(run), losses(path "half"))
    local shard = path "shards/shard-00000.bin"
    local bytes = support.read(shard)
    support.write(shard, bytes:sub(1, 5000) .. "xx" .. bytes:sub(5003))
    local code, _, err = performer("train --steps 20 --resume " .. run)
    assert.equal(1, code)
    assert_sentence(err, "shard%-00000.bin: is damaged, or has changed since it was made")
    assert.equal("step-12\n", support.read(run .. "/LATEST"))
    support.write(shard, bytes)
    good(("train --steps 20 --threads 1 --resume %s"):format(run))
  end)

  it("may be shards of sequences, whose blocks a run that goes on must find again", function()
    local function going_on(run, shards)
      local _, err = good(("train --resume %s/step-8 --data %s --out %s --threads 1"):format(run,
        path(shards), path(shards .. "-of-" .. run:match "[^/]+$")))
      return err, losses(path(shards .. "-of-" .. run:match "[^/]+$"))
    end
    for name, block in pairs { one = 100000, many = 400 } do
      good(("shard --data %s --out %s --block %d"):format(path "p.fasta", path(name), block))
    end
    local plain = train("plain", ("--data %s %s"):format(path "p.fasta", MORE))
    local parted = train("parted", ("--data %s %s"):format(path "many", MORE))
    local err, now = going_on(plain, "one")
    assert.is_nil(err:find "is not what the run began with")
    assert.equal(losses(plain), now)
    err, now = going_on(parted, "many")
    assert.is_nil(err:find "is not what the run began with")
    assert.equal(losses(parted), now)
    for _, pair in ipairs { { plain, "many" }, { parted, "one" } } do
      err = going_on(pair[1], pair[2])
      assert.matches("is not what the run began with %(.*, in rows of other shards%)", err)
    end
  end)

  it("may change on the disk while the run trains, which trains on what it read", function()
    local more = MORE:gsub("%-%-steps 12", "--steps 150"):gsub("%-%-keep 9", "")
    local whole = train("still", ("--data %s %s"):format(path "t.txt", more))
    local run, file = path "moving", support.write(path "moving.txt", support.read(path "t.txt"))
    local code, _, err = support.shell(([[
      OMP_WAIT_POLICY=passive %s/bin/performer train --out %s %s --data %s %s &
      n=0
      while [ ! -s %s/LATEST ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
      echo "no text any more" > %s
      wait $!]]):format(support.build, run, commands.SMALL, file, more, run, file))
    assert.equal(0, code, err)
    assert.equal(losses(whole), losses(run))
    support.write(file, (support.read(path "t.txt"):gsub("river", "ocean")))
    _, err = good(("train --resume %s --steps 152 --threads 1"):format(run))
    assert.matches("is not what the run began with %(.*, with other letters%)", err)
  end)
end)
