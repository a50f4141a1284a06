-- commands_protein_spec.lua - what protein users do with a model: vectors of sequences (embed),
-- log-likelihoods and variants (score), gaps (fill), samples as FASTA (generate --fasta); each held
-- against the model itself.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local good, path, performer, records = commands.good, commands.path, commands.performer,
  commands.records

local WILD = "MKTAYIAKQRQISFVKSHFSRQ"
local FASTA = ">one first\nMKTAYIAKQR\n>two\nACDEFGHIKLMNPQRSTVWY\n>one first\nMKTAYIAKQR\n"

describe("commands for proteins", function()
  local runs, models, tokenizer = {}, {}, pf.tokenizer.protein()

  setup(function()
    commands.start()
    support.write(path "some.fasta", FASTA)
    support.write(path "wild.fasta", ">wild\n" .. WILD .. "\n")
    local train = {}
    for i = 1, 40 do
      train[i] = (">s%d\n%s%s\n"):format(i, WILD:sub(1 + i % 7), WILD:sub(i % 9 + 1))
    end
    support.write(path "train.fasta", table.concat(train))
    for way, more in pairs { causal = "", masked = "--bidirectional" } do
      runs[way] = commands.train(way, ("--data '%s' --steps 3 %s"):format(path "train.fasta", more))
      models[way] = assert(pf.checkpoint.model(runs[way]))
    end
  end)
  teardown(commands.stop)

  --- Ids of a protein with begin and end, (1, n).
  local function ids_of(text)
    local list = tokenizer:encode(text):totable()
    table.insert(list, 1, tokenizer:special "begin")
    list[#list + 1] = tokenizer:special "end"
    return pf.tensor({ list }, { dtype = "i32" }), list
  end

  local function words(command, way, more)
    return ("%s --checkpoint '%s' %s"):format(command, runs[way], more)
  end

  --- The command ends with a code and one sentence.
  local function refused(code, pattern, arguments)
    local got, _, err = performer(arguments)
    commands.assert_sentence(err, pattern)
    assert.equal(code, got)
  end

  describe("embed", function()
    it("gives the mean of what stands behind the last norm, letters only", function()
      for way, model in pairs(models) do
        local found = records(good(words("embed", way, ("--data '%s' --json"):format(
          path "some.fasta"))))
        assert.equal(3, #found) -- copies, too
        assert.equal("two", found[2].name)
        local h = model:hidden((ids_of "ACDEFGHIKLMNPQRSTVWY"))
        assert.near_tensor(h:slice(2, 2, 21):mean(2):reshape(-1), found[2].vector, 1e-5)
        assert.same(found[1].vector, found[3].vector)
      end
    end)

    it("gives a vector for each letter, of a block if told", function()
      local out = good(words("embed", "masked", ("--data '%s' --per-token --json"):format(
        path "some.fasta")))
      local h = models.masked:hidden((ids_of "MKTAYIAKQR"))
      assert.near_tensor(h:slice(2, 2, 11):reshape(10, -1), records(out)[1].vector, 1e-5)
      out = good(words("embed", "masked", ("--data '%s' --per-token --layer 1"):format(
        path "some.fasta")))
      local _, lines = out:gsub("\n", "")
      assert.equal(40, lines)
      assert.truthy(out:find("two\t20\t", 1, true))
    end)

    it("takes long sequences in parts", function()
      local out = good(words("embed", "masked", ("--per-token --length 6 --json --data '%s'")
        :format(path "some.fasta")))
      local _, list = ids_of "MKTAYIAKQR" -- begin and end beside it: parts of 6 and 6
      local h = models.masked:hidden(pf.tensor({ { table.unpack(list, 7, 12) } },
                                               { dtype = "i32" }))
      local found = records(out)[1].vector
      assert.equal(10, #found)
      assert.near_tensor(h:slice(2, 1, 5):reshape(5, -1), { table.unpack(found, 6, 10) }, 1e-5)
    end)

    it("reads a long row in the memory of a part, where the model goes on", function()
      local text = WILD:rep(2000) -- 44,000 letters
      support.write(path "long.fasta", (">long\n%s\n>short\nMKT\n"):format(text))
      local budget = "--memory 24M --threads 1"
      local out = good(words("embed", "causal", ("--json %s --data '%s'"):format(budget,
        path "long.fasta")))
      local found = records(out)
      local h = models.causal:hidden((ids_of(text)))
      assert.near_tensor(h:slice(2, 2, #text + 1):mean(2):reshape(-1), found[1].vector, 1e-4)
      assert.near_tensor(models.causal:hidden((ids_of "MKT")):slice(2, 2, 4):mean(2):reshape(-1),
                         found[2].vector, 1e-5)
      refused(1, "out of memory", words("embed", "masked", ("%s --data '%s'"):format(budget,
        path "long.fasta")))
      out = good(words("embed", "causal", ("--per-token --layer 1 %s --data '%s'"):format(budget,
        path "long.fasta")))
      h = models.causal:hidden(ids_of(text), nil, 1)
      local last = out:match "\nlong\t44000\t([^\n]*)"
      local row = {}
      for number in last:gmatch "%S+" do row[#row + 1] = tonumber(number) end
      assert.near_tensor(h:slice(2, #text + 1, #text + 1):reshape(-1), row, 1e-4)
    end)

    it("refuses a block that is not there, and bytes", function()
      refused(2, "%-%-layer 2: the model has 1 block$", words("embed", "causal",
        ("--layer 2 --data '%s'"):format(path "some.fasta")))
      support.write(path "book.txt", "no protein at all")
      refused(1, "reads protein tokens, but .*book%.txt is text; give it a FASTA file",
        words("embed", "causal", ("--data '%s'"):format(path "book.txt")))
      refused(2, "needs %-%-data FILE", words("embed", "causal", ""))
    end)
  end)

  describe("score", function()
    it("gives log-likelihoods as the model has them", function()
      local found = records(good(words("score", "causal", ("--data '%s' --json"):format(
        path "some.fasta"))))
      local _, list = ids_of "ACDEFGHIKLMNPQRSTVWY"
      local input = pf.tensor({ table.move(list, 1, #list - 1, 1, {}) }, { dtype = "i32" })
      local target = pf.tensor({ table.move(list, 2, #list, 1, {}) }, { dtype = "i32" })
      local sum = models.causal(input):cross_entropy(target, { reduction = "none" }):sum():item()
      assert.equal(21, found[2].tokens)
      assert.near(-sum, found[2].log_likelihood, 1e-3)
      assert.near(sum / 21, found[2].loss, 1e-5)
      local masked = records(good(words("score", "masked", ("--data '%s' --json"):format(
        path "some.fasta"))))
      assert.equal(20, masked[2].tokens) -- begin and end are never hidden
    end)

    --- log p of all letters at a position of the wild type where it is hidden, and others with it.
    local function hidden(at, places)
      local _, list = ids_of(WILD)
      for _, place in ipairs(places) do list[place + 1] = tokenizer:special "mask" end
      local log_p = models.masked(pf.tensor({ list }, { dtype = "i32" })):log_softmax(-1)
      local row = log_p[1][at + 1]:totable()
      return function(letter) return row[tokenizer:encode(letter):totable()[1] + 1] end
    end

    it("gives variants masked marginals, together where several letters change", function()
      support.write(path "v.csv", "\xef\xbb\xbf,mutant,\"what, else\",value\r\n"
        .. "0,K2A,\"a \"\"b\",1\r\n1,K2A:R10W,x,\r\n2,,x,3\r\n3,M1C,x,-2\r\n")
      local out, err = good(words("score", "masked", ("--wild '%s' --variants '%s' --json "
        .. "--measured value"):format(path "wild.fasta", path "v.csv")))
      local found = records(out)
      local p, q = hidden(2, { 2 }), hidden(2, { 2, 10 })
      local r = hidden(10, { 2, 10 })
      assert.near(p "A" - p "K", found[1].score, 1e-4)
      assert.near(q "A" - q "K" + r "W" - r "R", found[2].score, 1e-4)
      assert.is_nil(found[2].measured)
      local s = hidden(1, { 1 })
      assert.near(s "C" - s "M", found[3].score, 1e-4)
      local same = (found[1].score > found[3].score) and 1 or -1
      assert.same({ spearman = same, variants = 3, measured = 2 }, found[4])
      assert.truthy(err:find("score: 1 line without a variant\n", 1, true))
    end)

    it("gives variants likelihood ratios of a causal model, at shifted positions", function()
      support.write(path "shifted.tsv", "name\tmutant\nx\tK27A\ny\tK27K\n")
      local found = records(good(words("score", "causal", ("--data '%s' --variants '%s' --json "
        .. "--offset -25"):format(path "wild.fasta", path "shifted.tsv"))))
      support.write(path "both.fasta", (">w\n%s\n>m\n%s\n"):format(WILD, (WILD:gsub("^MK", "MA"))))
      local both = records(good(words("score", "causal", ("--data '%s' --json"):format(
        path "both.fasta"))))
      assert.near(both[2].log_likelihood - both[1].log_likelihood, found[1].score, 1e-3)
      assert.near(0, found[2].score, 1e-5)
    end)

    it("says what is wrong with a variant, and where", function()
      local function table_of(text)
        support.write(path "bad.csv", text)
        return words("score", "causal", ("--wild '%s' --variants '%s'"):format(path "wild.fasta",
          path "bad.csv"))
      end
      refused(1, "bad%.csv:3: A2K: the wild type has K at position 2, not A; check %-%-wild",
        table_of "mutant\nK2A\nA2K\n")
      refused(1, "K99A: position 99 lies outside of the wild type's 22",
        table_of "mutant\nK99A\n")
      refused(1, "'hello' is no variant such as A24C", table_of "mutant\nhello\n")
      refused(1, "changes position 2 twice", table_of "mutant\nK2A:K2C\n")
      refused(1, "a quote that does not end", table_of "mutant\n\"K2A\n")
      refused(1, "bad%.csv holds no variant", table_of "mutant\n\n")
      refused(1, "the table is empty", table_of "")
      refused(2, "%-%-column: there is no 'mutant' %(did you mean 'mutants'%?%)",
        table_of "mutants,b\nK2A,1\n")
      refused(1, "holds 3 sequences; the wild type is one", words("score", "causal",
        ("--wild '%s' --variants '%s'"):format(path "some.fasta", path "bad.csv")))
      refused(2, "%-%-measured goes with %-%-variants", words("score", "causal",
        ("--data '%s' --measured x"):format(path "some.fasta")))
      refused(2, "%-%-offset goes with %-%-variants", words("score", "causal",
        ("--data '%s' --offset 3"):format(path "some.fasta")))
      refused(2, "%-%-offset 1.5 is no whole number", table_of "mutant\nK2A\n" .. " --offset 1.5")
      refused(1, "Is a directory; name a file in it", words("score", "causal",
        ("--wild '%s' --variants '%s'"):format(path "wild.fasta", runs.causal)))
    end)
  end)

  describe("fill", function()
    it("fills gaps with the likeliest letters", function()
      local out = good(words("fill", "masked", "--sequence 'MK?AYIAK?R' --top 3 --at-once --json"))
      local found = records(out)[1]
      local _, list = ids_of "MKAAYIAKAR"
      list[4], list[10] = tokenizer:special "mask", tokenizer:special "mask"
      local p = models.masked(pf.tensor({ list }, { dtype = "i32" })):softmax(-1)[1]
      local best, most = nil, 0
      for id, value in ipairs(p[10]:totable()) do
        local letter = tokenizer:decode { id - 1 }
        if #letter == 1 and value > most then best, most = letter, value end
      end
      assert.equal(9, found.gaps[2].position)
      assert.equal(best, found.gaps[2].letters[1].letter)
      assert.equal(3, #found.gaps[2].letters)
      assert.equal("MK" .. found.gaps[1].letters[1].letter .. "AYIAK" .. best .. "R", found.text)
      local plain = good(words("fill", "masked", "--sequence 'MK?AYIAK?R'"))
      assert.truthy(plain:find("^sequence\tMK%uAYIAK%uR\n  3: %u 0%.%d+  %u"), plain)
    end)

    it("reads FASTA and lines, and refuses causal models and what is no letter", function()
      support.write(path "gaps.fasta", ">a gap\nMK?A\nYI\n>none\nMKT\n> \nM?\n")
      local found = records(good(words("fill", "masked", ("--data '%s' --json"):format(
        path "gaps.fasta"))))
      assert.equal("a", found[1].name) -- what follows the name describes it
      assert.equal("record 3", found[3].name)
      assert.truthy(found[1].text:find "^MK%uAYI$")
      assert.same({ name = "none", text = "MKT", gaps = {} }, found[2])
      refused(1, "causal model, which goes on writing", words("fill", "causal",
        "--sequence 'M?'"))
      refused(1, "'1' at position 2 is no amino%-acid letter", words("fill", "masked",
        "--sequence 'M1?'"))
      refused(1, "more than letters; a gap is written %?", words("fill", "masked",
        "--sequence 'MK<mask>A'"))
      refused(2, "needs %-%-sequence TEXT or %-%-data FILE", words("fill", "masked", ""))
      local _, told = good(words("fill", "masked", "--sequence MKT"))
      assert.matches("there is no gap; write %? for each letter to be filled in", told)
      support.write(path "marked.fasta", "\xef\xbb\xbf>a\r\nMK?\r\n")
      found = records(good(words("fill", "masked", ("--data '%s' --json"):format(
        path "marked.fasta"))))
      assert.same({ "a", 1 }, { found[1].name, #found[1].gaps })
      support.write(path "packed.gz", "\x1f\x8b\x08\n")
      refused(1, "packed.gz: is packed %(gzip%); unpack it first", words("fill", "masked",
        ("--data '%s'"):format(path "packed.gz")))
      refused(1, "Is a directory; name a file in it", words("fill", "masked",
        ("--data '%s'"):format(runs.masked)))
    end)
  end)

  it("end where weights are no numbers, and name the layer", function()
    for way in pairs(models) do
      local opened = assert(pf.checkpoint.load(runs[way], { optimizer = false }))
      local weight = opened.model:tensors()["norm.weight"]
      weight:fill_(0 / 0)
      runs["no" .. way] = path("no" .. way)
      assert(pf.checkpoint.save(runs["no" .. way], { model = opened.model, state = opened.state,
                                                     tokenizer = opened.tokenizer }))
    end
    support.write(path "one.csv", "mutant\nK2A\n")
    local data = ("--data '%s'"):format(path "wild.fasta")
    for way, list in pairs { nocausal = { score = data, embed = data, eval = data },
                             nomasked = { score = data, fill = "--sequence 'M?'" } } do
      for command, arguments in pairs(list) do
        refused(1, ("^performer: %s: what the model says of '%%S+' is %%-?nan: forward of .* in "
          .. "norm: its input 'weight' .* take another checkpoint"):format(command),
          words(command, way, arguments))
      end
    end
    refused(1, "score: what the model says of 'K2A' is", words("score", "nomasked", data
      .. (" --variants '%s'"):format(path "one.csv")))
    refused(1, "eval: what the model says of 'wild' is", words("eval", "nocausal", data
      .. " --per-sequence --json"))
  end)

  describe("generate", function()
    it("writes FASTA that is read again, a sample a record", function()
      local out = good(words("generate", "causal",
        "--count 3 --tokens 70 --prompt mk --fasta --seed 1"))
      support.write(path "samples.fasta", out)
      local data = assert(pf.data.fasta { path = path "samples.fasta", split = "none",
                                          unique = false, min_tokens = 1 })
      assert.equal(3, data:info("all").documents)
      local _, name = data:document(2, "all")
      assert.equal("sample_2", name)
      for line in out:gmatch "[^\n]+" do
        assert.truthy(line:find "^>sample_%d seed=%d length=%d+ prompt=mk$"
          or line:find "^%u+$", line)
        assert.is_true(#line <= 60)
      end
      assert.truthy(out:find "length=%d+ prompt=mk\nMK")
      local second = good(words("generate", "causal", "--seed 2 --tokens 70 --prompt mk --fasta"))
      assert.equal(out:match "sample_2 seed=2 (length=%d+ prompt=mk\n[%u\n]+)",
                   second:match "sample_1 seed=2 (length=%d+ prompt=mk\n[%u\n]+)")
    end)

    it("writes the same samples, however many at a time", function()
      local given = "--count 5 --tokens 40 --temperature 1.3 --seed 1 "
      local out = good(words("generate", "causal", given .. "--fasta"))
      assert.equal(out, good(words("generate", "causal", given .. "--fasta --batch 1")))
      assert.equal(out, good(words("generate", "causal", given .. "--fasta --batch 2")))
      local texts = {}
      for line in good(words("generate", "causal", given .. "--json --batch 3")):gmatch "[^\n]+" do
        texts[#texts + 1] = assert(pf.json.decode(line)).text
      end
      assert.equal(5, #texts)
      for n, text in ipairs(texts) do
        local one = assert(pf.json.decode((good(words("generate", "causal",
          ("--tokens 40 --temperature 1.3 --json --seed %d"):format(n))))))
        assert.equal(one.text, text)
      end
    end)

    it("writes no record without a letter", function()
      -- a model that ends at once: after the beginning, and only there, the end is the likeliest
      local opened = assert(pf.checkpoint.load(runs.causal, { optimizer = false }))
      local own = opened.model:tensors()
      for _, tensor in pairs(own) do tensor:fill_(0) end
      own["norm.weight"]:fill_(1)
      local waves = (pf.arange(16):reshape(1, 16) * math.pi):cos()
      for name, value in pairs { begin = 1, ["end"] = 9 } do
        local row = tokenizer:special(name) + 1
        own["embedding.weight"]:slice(1, row, row):copy_(waves * value)
      end
      runs.ends = path "ends"
      assert(pf.checkpoint.save(runs.ends, { model = opened.model, state = opened.state,
                                             tokenizer = opened.tokenizer }))
      local told = assert(pf.json.decode((good(words("generate", "ends", "--json")))))
      assert.equal(0, told.tokens)
      local out, n = good(words("generate", "ends", "--count 4 --tokens 9 --fasta")), 0
      for length, letters in out:gmatch "length=(%d+)\n(%u+)" do
        n = n + 1
        assert.equal(tonumber(length), #letters)
      end
      assert.equal(4, n)
    end)

    it("refuses FASTA as JSON", function()
      local code, _, err = performer(words("generate", "causal", "--fasta --json"))
      assert.equal(2, code)
      assert.truthy(err:find("--fasta or --json, not both", 1, true))
    end)
  end)
end)
