-- compare_spec.lua - runs held against each other: what differs, the best of each figure, and when
-- losses can't be compared; their curves in one picture.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local copy, good, log_of, path = commands.copy, commands.good, commands.log_of, commands.path
local performer, records, train = commands.performer, commands.records, commands.train

describe("compare", function()
  local book, other

  setup(function()
    commands.start()
    book = commands.train_book()
    other = train("other", ("--data %s --steps 40 --eval-every 10 --threads 1 --attention exact "
      .. "--seed 4"):format(path "t.txt"))
  end)
  teardown(commands.stop)

  --- The cells of the row that begins with `name`.
  local function cells(out, name)
    local line = ("\n" .. out):match("\n%s*" .. name:gsub("%p", "%%%0") .. "%s%s+([^\n]*)")
    assert.is_truthy(line, name .. " is not in:\n" .. out)
    local list = {}
    for cell in (line .. "  "):gmatch "(%S.-)%s%s+" do list[#list + 1] = cell end
    return list
  end

  it("tells what differs in the settings, and nothing else of them", function()
    local out = good(("compare %s %s"):format(book, other))
    assert.same({ "softmax", "exact" }, cells(out, "attention"))
    assert.same({ "20", "10" }, cells(out, "eval_every"))
    assert.same({ "1", "4" }, cells(out, "seed"))
    assert.same({ "16", "-" }, cells(out, "kernel.features"))
    for _, same in ipairs { "dim", "lr", "data", "steps", "optimizer" } do
      assert.is_nil(("\n" .. out):find("\n%s*" .. same .. "%s%s"), same)
    end
  end)

  it("tells the figures of the logs, and marks the best", function()
    local out = good(("compare %s %s"):format(book, other))
    local first, second = log_of(book), log_of(other)
    local a, b = first[#first], second[#second]
    local function told(name, format, x, y, most)
      local better = x ~= y and ((x < y) == not most and 1 or 2)
      assert.same({ format:format(x) .. (better == 1 and " *" or ""),
                    format:format(y) .. (better == 2 and " *" or "") }, cells(out, name))
    end
    told("held-out loss", "%.4f", a.valid_loss, b.valid_loss)
    told("perplexity", "%.3f", a.valid_perplexity, b.valid_perplexity)
    told("accuracy", "%.2f %%", 100 * a.valid_accuracy, 100 * b.valid_accuracy, true)
    told("training loss", "%.4f", a.train_loss, b.train_loss)
    assert.same({ "40", "40" }, cells(out, "step"))
  end)

  it("gives a program an object a run", function()
    local list = records((good(("compare %s/BEST %s --json"):format(book, other))))
    assert.equal(2, #list)
    assert.equal("book", list[1].name)
    assert.equal("exact", list[2].differences.attention)
    for i, run in ipairs { book, other } do
      local log = log_of(run)
      assert.is_true(list[i].finished and list[i].comparable and not list[i].resumed)
      assert.equal(log[#log].valid_loss, list[i].valid_loss)
      assert.equal(log[#log].params, list[i].params)
      commands.assert_fields(list[i], { tokens_per_s = "number", bytes_peak = "integer",
        seconds = "number", train_loss = "number", best_loss = "number", step = "integer",
        notes = "table" })
    end
  end)

  it("tells runs that are not finished, or went on", function()
    local run = copy(book, "resumed")
    good(("train --resume %s --steps 50 --threads 1"):format(run))
    local cut = copy(other, "cut")
    support.write(cut .. "/log.jsonl", support.read(other .. "/log.jsonl"):gsub("\n[^\n]*\n$", "\n")
      .. '{"loss": 3')
    local out, err = good(("compare %s %s"):format(run, cut))
    assert.matches("resumed: went on after step 40\n", err)
    for _, cell in ipairs(cells(out, "seconds")) do -- of 50 steps and of 40
      assert.is_nil(cell:find("*", 1, true))
    end
    assert.matches("cut: is not finished: step 40 of 40, held out of step 40", err)
    assert.matches("not comparable: the runs differ in held%-out part\n", err) -- some rows
    assert.matches("cut: log.jsonl has lines that are no records: 1\n", err)
    local list = records((good(("compare %s %s --json"):format(run, cut))))
    assert.is_true(list[1].resumed)
    assert.is_false(list[2].finished)
  end)

  it("marks no loss as the best where losses are not comparable", function()
    local proteins = train("proteins", ("--data %s --steps 3 --threads 1"):format(path "p.fasta"))
    local masked = train("masked", ("--data %s --steps 3 --threads 1 --bidirectional"):format(
      path "p.fasta"))
    local third = train("third", ("--data %s --steps 3 --threads 1 --valid-fraction 0.3"):format(
      path "p.fasta"))
    for other_run, why in pairs { [book] = "tokens, data, held%-out part",
                                  [masked] = "the runs differ in what is asked\n",
                                  [third] = "the runs differ in held%-out part\n" } do
      local out, err = good(("compare %s %s"):format(proteins, other_run))
      assert.matches("losses are not comparable: .*" .. why, err)
      for _, name in ipairs { "held-out loss", "perplexity", "accuracy", "training loss" } do
        for _, cell in ipairs(cells(out, name)) do assert.is_nil(cell:find("*", 1, true)) end
      end
      assert.is_truthy(table.concat(cells(out, "tokens/s"), " "):find("*", 1, true))
    end
  end)

  it("tells a run that was judged on a sample from one that was judged on all", function()
    local some = copy(book, "some")
    support.write(some .. "/log.jsonl",
      (support.read(book .. "/log.jsonl"):gsub('"final":true', '"final":true,"sample":true')))
    local _, err = good(("compare %s %s"):format(book, some))
    assert.matches("some: was judged on a sample of the held%-out part, %d+ tokens\n", err)
    assert.matches("not comparable: the runs differ in held%-out part\n", err)
    _, err = good(("compare %s %s"):format(some, some))
    assert.is_nil(err:find("not comparable", 1, true))
  end)

  it("draws the curves over steps, tokens or seconds", function()
    for by, axis in pairs { steps = "step", tokens = "training tokens", seconds = "seconds" } do
      good(("compare %s %s --out %s --by %s"):format(book, other, path "c.svg", by))
      local picture = support.read(path "c.svg")
      assert.matches("^<svg ", picture)
      assert.is_truthy(picture:find(">" .. axis .. "</text>", 1, true))
      for _, name in ipairs { "book, held out", "book, training", "other, held out" } do
        assert.is_truthy(picture:find(">" .. name .. "</text>", 1, true), name)
      end
      -- 2 and 4 evaluations, and a dot in each legend
      assert.equal(2 + 4 + 2, select(2, picture:gsub("<circle", "")))
    end
  end)

  it("draws the loss that a run ended with, where none was taken in passing", function()
    local ended = copy(book, "ended")
    local log = support.read(book .. "/log.jsonl"):gsub("[^\n]+", function(line)
      return line:find '"final"' and line or line:gsub('"valid_loss":[^,]*,', "")
    end)
    support.write(ended .. "/log.jsonl", log)
    for _, by in ipairs { "steps", "tokens", "seconds" } do
      good(("compare %s --out %s --by %s"):format(ended, path "c.svg", by))
      local picture = support.read(path "c.svg")
      assert.is_truthy(picture:find(">ended, held out</text>", 1, true))
      assert.equal(1 + 1, select(2, picture:gsub("<circle", "")))
    end
    good(("report %s --out %s"):format(ended, path "r.html"))
    assert.matches("Held out: from [%d.]+ at step 40", support.read(path "r.html"))
  end)

  it("tells folders of one name apart, and shows many beside each other", function()
    support.shell(("mkdir -p %s %s"):format(path "a", path "b"))
    local first, second = copy(book, "a/run"), copy(book, "b/run")
    local out = good(("compare %s %s"):format(first, second))
    assert.is_truthy(out:find(first, 1, true) and out:find(second, 1, true))
    out = good("compare" .. (" " .. book):rep(6) .. " " .. other)
    assert.equal(2, select(2, out:gsub("held%-out loss", "")))
    assert.equal(7, select(2, out:gsub("softmax", "")) + select(2, out:gsub("exact", "")))
  end)

  it("names with escapes in them obey nothing", function()
    local run = copy(book, "odd")
    support.shell(("mv %s \"%s/$(printf 'o\\033[31m<d>')\""):format(run, path ""))
    local out = good(("compare \"%s/$(printf 'o\\033[31m<d>')\" %s --out %s"):format(path "", book,
      path "odd.svg"))
    assert.is_nil(out:find "\27")
    local picture = support.read(path "odd.svg")
    assert.is_nil(picture:find "\27")
    assert.is_truthy(picture:find("&lt;d&gt;, held out", 1, true))
  end)

  it("says what is no run", function()
    for argument, message in pairs {
      [path "nothing"] = "No such file or directory; check the path",
      [path ""] = "holds no run: there is no log.jsonl in it",
      [path "t.txt"] = path "t.txt" .. ": is a file, and holds no run",
    } do
      local code, _, err = performer("compare " .. argument)
      assert.equal(1, code, argument)
      commands.assert_sentence(err, message)
    end
    local code, _, err = performer(("compare %s --out /nowhere/c.svg"):format(book))
    assert.equal(1, code)
    commands.assert_sentence(err, "/nowhere/c.svg: No such file or directory; check the path")
    for _, name in ipairs { "c.png", "c.PDF", "runs.2" } do
      code, _, err = performer(("compare %s --out %s"):format(book, path(name)))
      assert.equal(2, code)
      commands.assert_sentence(err, "compare: %-%-out .*: a picture is written as SVG; say %-%-out "
        .. path(name:gsub("%.%w+$", ".svg")):gsub("%p", "%%%0") .. " %(rsvg%-convert ")
      assert.is_false(commands.exists(path(name)))
    end
    for _, name in ipairs { "c.SVG", "plain" } do
      good(("compare %s --out %s"):format(book, path(name)))
      assert.matches("^<svg ", support.read(path(name)))
    end
    assert.equal(2, (performer "compare"))
    assert.equal(2, (performer(("compare %s --by hours"):format(book))))
    assert.is_not_nil(pf.version)
  end)
end)
