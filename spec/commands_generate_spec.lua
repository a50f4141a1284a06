-- commands_generate_spec.lua - what generate draws and when it is the same: seeds, prompts from
-- files, samples of each, stops, the least share (--min-p) and what repeats (--repetition-penalty).
local cli = require "kit.cli"
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local assert_sentence, good, path = commands.assert_sentence, commands.good, commands.path
local performer, records = commands.performer, commands.records

describe("generate", function()
  local book, proteins

  setup(function()
    commands.start()
    book = commands.train_book()
    proteins = commands.train("proteins", ("--data %s --steps 4 --threads 1"):format(
      path "p.fasta"))
  end)
  teardown(commands.stop)

  local function write(more, run)
    return good(("generate --checkpoint %s --threads 1 %s"):format(run or book, more))
  end

  it("draws anew, and tells the seed that draws the same again", function()
    local first, told = write "--tokens 60"
    local second, other = write "--tokens 60"
    assert.are_not.equal(first, second)
    local seed = told:match ", seed (%d+)\n$"
    assert.are_not.equal(seed, other:match ", seed (%d+)\n$")
    assert.equal(first, (write("--tokens 60 --seed " .. seed)))
    local record = records((write "--tokens 60 --json"))[1]
    assert.equal(record.text,
      records((write(("--tokens 60 --json --seed %d"):format(record.seed))))[1].text)
    local _, greedy = write "--tokens 5 --temperature 0"
    assert.is_nil(greedy:find("seed", 1, true))
  end)

  it("takes a prompt for the text itself, and says so of a file's name", function()
    local code, _, err = performer(("generate %s - --tokens 4 --threads 1"):format(book))
    assert.equal(2, code)
    assert.matches("%-%-prompts %- reads prompts from the standard input", err)
    local file = path "t.txt"
    local out, told = good(("generate %s %s --tokens 4 --threads 1"):format(book, file))
    assert.equal(file, out:sub(1, #file))
    assert.is_truthy(told:find("--prompts " .. file .. " reads the prompts in that file", 1, true))
    out, told = good(("generate %s 'no.file' --tokens 4 --threads 1"):format(book))
    assert.equal("no.file", out:sub(1, 7))
    assert.is_nil(told:find "reads the prompts")
  end)

  it("goes on from each line of a file, or of the standard input", function()
    support.write(path "prompts.txt", "the river\r\n\n  stone\nold")
    local list = records((write(("--prompts %s --count 2 --tokens 12 --seed 30 --json"):format(
      path "prompts.txt"))))
    assert.equal(6, #list)
    for n, record in ipairs(list) do
      local prompt = ({ "the river", "  stone", "old" })[(n + 1) // 2]
      assert.same({ (n + 1) // 2, (n + 1) % 2 + 1, 29 + n, 12 },
        { record.prompt, record.sample, record.seed, record.tokens })
      assert.equal(prompt, record.text:sub(1, #prompt))
      assert.equal(record.text, records((write(("--prompt '%s' --tokens 12 --seed %d --json")
        :format(prompt, record.seed))))[1].text)
    end
    local out = good(("generate --checkpoint %s --threads 1 --prompts - --count 2 --tokens 12 "
      .. "--seed 30 --json --batch 1 < %s"):format(book, path "prompts.txt"))
    for n, record in ipairs(records(out)) do assert.equal(list[n].text, record.text) end
  end)

  it("goes on from records of FASTA, and writes such", function()
    support.write(path "starts.fasta", ">one of them\nMKV\nLA\n>two\nGG\n")
    local out = write(("--prompts %s --count 2 --tokens 90 --seed 4 --fasta"):format(
      path "starts.fasta"), proteins)
    local names = {}
    for n, seed, length, name, lines in out:gmatch
        ">sample_(%d) seed=(%d) length=(%d+) prompt=(%S+)\n([%u\n]+)" do
      local text = lines:gsub("\n", "")
      names[#names + 1] = name
      assert.equal(#names, tonumber(n))
      assert.equal(3 + #names, tonumber(seed))
      assert.equal(#text, tonumber(length))
      assert.matches(name == "one" and "^MKVLA" or "^GG", text)
      for line in lines:gmatch "[^\n]+" do assert.is_true(#line <= 60) end
    end
    assert.same({ "one", "one", "two", "two" }, names)
    local list = records((write(("--prompts %s --tokens 9 --json"):format(path "starts.fasta"),
      proteins)))
    assert.same({ "one", "two" }, { list[1].prompt, list[2].prompt })
  end)

  it("reads all prompts before it writes a sample", function()
    support.write(path "odd.txt", "MKV\nM1\n")
    local code, out, why = performer(("generate %s --threads 1 --batch 1 --tokens 4 --prompts %s")
      :format(proteins, path "odd.txt"))
    assert.equal(1, code)
    assert.equal("", out)
    assert_sentence(why, "odd%.txt: prompt 2: tokenizer: '1' at position 2 is no amino%-acid "
      .. "letter; write amino acids as their letters$")
  end)

  it("shows a terminal nothing that it would obey", function()
    assert.equal("a\n\t?[31m??\u{fc}\xff", cli.tame "a\n\t\27[31m\r\127\u{fc}\xff")
  end)

  it("ends before a stop, whether letters are shown or samples are served", function()
    local whole = write("--prompt a --tokens 200 --temperature 1.5 --seed 9"):sub(2, -2)
    local stop = whole:sub(100, 102)
    local first = whole:find(stop, 1, true)
    local arguments = ("--prompt a --tokens 200 --temperature 1.5 --seed 9 --stop zzzzz --stop %s")
      :format("'" .. stop:gsub("'", "'\\''") .. "'")
    local out, err = write(arguments)
    assert.equal("a" .. whole:sub(1, first - 1) .. "\n", out)
    assert.matches(("^%d tokens"):format(first - 1), err)
    local served = records((write(arguments .. " --count 2 --json")))
    assert.equal(first - 1, served[1].tokens)
    assert.is_nil(served[2].text:find(stop, 2, true))
    local code, _, why = performer(("generate --checkpoint %s --stop ''"):format(book))
    assert.equal(2, code)
    assert_sentence(why, "%-%-stop: '' is empty")
  end)

  it("writes the likeliest alone where the least share is all of it", function()
    local greedy = write "--prompt the --tokens 40 --temperature 0"
    assert.equal(greedy, (write "--prompt the --tokens 40 --min-p 1 --temperature 2"))
    assert.are_not.equal(greedy, (write "--prompt the --tokens 40 --temperature 2"))
  end)

  it("repeats less the more it is charged, alone and served", function()
    local function kinds(text)
      local seen, n = {}, 0
      for byte in text:gmatch "." do
        if not seen[byte] then seen[byte], n = true, n + 1 end
      end
      return n
    end
    local command = "--prompt the --tokens 20 --temperature 0 --repetition-penalty "
    local plain, charged = write(command .. 1), write(command .. 50)
    assert.is_true(kinds(plain) < kinds(charged))
    local new = charged:sub(4, -2) -- each once, as long as there are likelier ones than those
    assert.equal(kinds(new), #new)
    assert.is_nil(new:find "[the]")
    assert.equal(charged .. charged, (write(command .. "50 --count 2")))
  end)

  it("charges what a stream from a file has read", function()
    local model = assert(pf.checkpoint.model(book))
    local sampling = { temperature = 0, repetition_penalty = 50 }
    local stream = model:stream { batch = 1 }
    stream:feed { 116, 104, 101 }
    local id = stream:sample(sampling)
    for _ = 1, 5 do id = stream:next(id, sampling) end
    assert(stream:save(path "stream"))
    local loaded = assert(model:load_stream(path "stream"))
    for _ = 1, 12 do
      local own, copy = stream:next(id, sampling), loaded:next(id, sampling)
      assert.equal(own, copy)
      id = own
    end
    local serving <close> = model:serve { slice = 2 }
    local one = serving:join { prompt = { 116, 104, 101, 32, 114 }, tokens = 3, temperature = 0,
                               repetition_penalty = 50 }
    serving:step() -- two tokens of the prompt are read
    local fork = serving:fork(one)
    fork:feed { 101, 32, 114 }
    local begun = fork:sample(sampling)
    local after
    repeat after = serving:step() until after[1]
    assert.equal(after[1].token, begun)
  end)

  it("says that samples without chance are all the same", function()
    for more, told in pairs { ["--temperature 0"] = true, ["--top-k 1"] = true,
                              ["--top-k 2"] = false } do
      local out, err = good(("generate %s The --tokens 8 --count 2 --seed 1 --json %s"):format(book,
        more))
      local list = records(out)
      if told then assert.equal(list[1].text, list[2].text) end
      local why = err:match "with (%S+ %d), which always takes .* the 2 samples of a prompt are the"
      assert.equal(told and more or nil, why)
    end
    local _, err = good(("generate %s The --tokens 8 --temperature 0"):format(book))
    assert.is_nil(err:find("the same", 1, true))
    assert.matches("^1 token, ", select(2, good(("generate %s The --tokens 1"):format(book))))
  end)

  it("says what can't be", function()
    support.write(path "bad.fasta", ">a\nMK\n>b\nM1\n")
    support.write(path "none.txt", "\n\n")
    for arguments, wanted in pairs {
      ["--prompt a --prompts " .. path "t.txt"] = { 2, "give %-%-prompt or %-%-prompts, not both" },
      ["--min-p 2"] = { 2, "%-%-min%-p must be at most 1" },
      ["--repetition-penalty 0"] = { 2, "%-%-repetition%-penalty must be more than 0" },
      ["--prompts " .. path "none.txt"] = { 1, "none.txt holds no prompt" },
      ["--prompts " .. path "not.txt"] = { 1, "not.txt: No such file or directory; check" },
    } do
      local code, _, err = performer(("generate --checkpoint %s %s"):format(book, arguments))
      assert.equal(wanted[1], code, arguments)
      assert_sentence(err, wanted[2])
    end
    local code, _, err = performer(("generate --checkpoint %s --prompts %s"):format(proteins,
      path "bad.fasta"))
    assert.equal(1, code)
    assert_sentence(err, "prompt 2: .*'1' at position 2 is no amino%-acid letter")
    local model = assert(pf.checkpoint.model(book))
    for option, value in pairs { min_p = 1.5, repetition_penalty = 0 } do
      assert.raises(option .. " must be", function()
        model:generate { prompt = { 1 }, tokens = 1, [option] = value }
      end)
    end
  end)
end)
