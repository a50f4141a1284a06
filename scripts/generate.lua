--- performer generate - lets a trained causal model write, one token at a time, in constant
-- memory.
local pf = require "performer"
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local saved = require "kit.saved"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
  { "prompt", "text", "", "what to go on from" },
  { "tokens", "positive", 200, "tokens to write at most" },
  { "temperature", "number", 1, "0: always the likeliest token" },
  { "top-k", "whole", 0, "sample among the k likeliest (0: all)" },
  { "top-p", "number", 1, "sample among the likeliest that hold this probability" },
  { "seed", "whole", 1, "of the sampling; the next sample has the next one" },
  { "count", "positive", 1, "samples" },
  { "batch", "positive", 16, "so many of them at a time; the same samples for any number" },
  { "fasta", "flag", nil, "records of FASTA: proteins, each with its prompt" },
  { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
  saved.AVERAGE,
  data_options.TOKENIZER,
  { "vocabulary", "file", nil, "llama2.c's tokenizer.bin, for a model that was converted from "
    .. "there" },
  { "threads", "positive", nil, "threads (default: all cores)" },
  { "json", "flag", nil, "one JSON object on stdout" },
}

local function check(options)
  if not options.checkpoint then cli.fail(2, "generate: needs --checkpoint FOLDER") end
  if options.fasta and options.json then
    cli.fail(2, "generate: give --fasta or --json, not both")
  end
  if options.top_p > 1 or options.top_p == 0 then
    cli.fail(2, "generate: --top-p must be above 0 and at most 1")
  end
end

--- The tokenizer of --vocabulary, which must have as many tokens as the model knows.
local function open_vocabulary(options, model)
  local tokenizer = cli.need(pf.tokenizer.llama2c(options.vocabulary))
  local vocab = model:options().vocab or tokenizer:size()
  if vocab ~= tokenizer:size() then
    cli.fail(1, ("generate: %s has %d tokens, and %s knows %d: give the vocabulary that it was "
      .. "trained with"):format(options.vocabulary, tokenizer:size(), options.checkpoint, vocab))
  end
  return tokenizer
end

local function open_model(options)
  local opened = cli.need(saved.open(options.checkpoint, {
    script = options.model, average = options.average ~= false }))
  if saved.is_masked(opened) then
    cli.fail(1, ("generate: %s holds a bidirectional model, which fills gaps but can't go on "
      .. "writing; train one without --bidirectional"):format(options.checkpoint))
  end
  if options.vocabulary then return opened.model, open_vocabulary(options, opened.model) end
  local name = data_options.tokenizer_name("generate", saved.tokenizer_name(opened), options)
  return opened.model, pf.tokenizer[name]()
end

--- The prompt's ids, and a beginning where the tokenizer has one.
local function read_prompt(options, tokenizer)
  local prompt = cli.need(tokenizer:encode(options.prompt)):totable()
  local begin = tokenizer:special "begin"
  if begin then table.insert(prompt, 1, begin) end
  if #prompt == 0 then prompt[1] = 10 end -- text: begin a line
  return prompt
end

--- All tokens but those that stand for nothing in a text.
local function writable(tokenizer)
  local silent, ids = {}, {}
  for _, name in ipairs { "begin", "mask", "pad" } do
    local id = tokenizer:special(name)
    if id then silent[id] = true end
  end
  for id = 0, tokenizer:size() - 1 do
    if not silent[id] then ids[#ids + 1] = id end
  end
  return ids
end

--- How many tokens to write: a table of learned positions may end before.
local function fit_tokens(options, model, prompt)
  local room = model:longest()
  local most = room - #prompt + 1 -- the last one is not read
  if most < 1 then
    cli.fail(1, ("generate: the prompt has %d tokens, and the model's learned positions end at %d; "
      .. "give a shorter one"):format(#prompt, room))
  end
  if options.tokens <= most then return end
  cli.say("generate: %d tokens at most: the model's learned positions end at %d", most, room)
  options.tokens = most
end

local function sampling_of(options, n)
  return { temperature = options.temperature, top_k = options.top_k, top_p = options.top_p,
           seed = options.seed + n - 1 }
end

--- The ids that sample n may begin with: a record without a prompt holds something, so where it
--- would end at once it begins with a letter; else nil.
local function first_ids(stream, options, n, tokenizer)
  local finish = tokenizer:special "end"
  if not options.fasta or options.prompt ~= "" then return nil end
  if stream:sample(sampling_of(options, n)) ~= finish then return nil end
  local letters = {}
  for _, one in ipairs(writable(tokenizer)) do
    if one ~= finish then letters[#letters + 1] = one end
  end
  return letters
end

--- A sequence as a record of FASTA, in lines of 60 letters.
local function record(n, seed, text)
  local lines = { (">sample_%d seed=%d length=%d"):format(n, seed, #text) }
  for first = 1, #text, 60 do lines[#lines + 1] = text:sub(first, first + 59) end
  return table.concat(lines, "\n") .. "\n"
end

--- Sample n, {ids, seconds, bytes} behind the prompt, to the standard output; told: its letters
--- are there already.
local function write(options, n, sample, tokenizer, told)
  local text, rate = tokenizer:decode(sample.ids), #sample.ids / math.max(sample.seconds, 1e-9)
  local whole = options.prompt .. text
  if options.json then
    cli.print_json { text = whole, tokens = #sample.ids, state_bytes = sample.bytes,
                     tokens_per_s = rate }
  elseif options.fasta then
    cli.write(record(n, options.seed + n - 1, whole:upper()))
  else
    cli.write(told and "" or whole, "\n")
    cli.say("%d tokens, %.0f tokens/s, state %d bytes", #sample.ids, rate, sample.bytes)
  end
end

--- Sample n joins the others, behind `begun`, which has read the prompt.
local function join(serving, begun, options, n, tokenizer)
  local o = sampling_of(options, n)
  o.stream, o.tokens, o.stop = begun, options.tokens, tokenizer:special "end"
  o.allow = first_ids(begun, options, n, tokenizer)
  return serving:join(o), { n = n, ids = {}, start = pf.clock(), first = o.allow ~= nil }
end

--- A token of a sample that is under way; true when it was its last.
local function take(serving, sample, one, tokenizer)
  if one.ended == "failed" then cli.fail(1, "generate: " .. one.message) end
  if sample.first then serving:allow(one.id, writable(tokenizer)) end
  sample.first = false
  if one.ended ~= "stop" then sample.ids[#sample.ids + 1] = one.token end
  if not one.ended then return false end
  sample.seconds = pf.clock() - sample.start
  sample.bytes = serving:sequence(one.id).bytes
  serving:leave(one.id)
  return true
end

--- All samples, `batch` of them at a time, each what it is alone; they are written in their order.
local function sample_all(begun, model, options, tokenizer)
  local serving <close> = model:serve()
  local here, done, joined, written = {}, {}, 0, 0
  repeat
    while joined < options.count and serving:count() < options.batch do
      joined = joined + 1
      local id, sample = join(serving, begun, options, joined, tokenizer)
      here[id] = sample
    end
    for _, one in ipairs(serving:step()) do
      local sample = here[one.id]
      if take(serving, sample, one, tokenizer) then done[sample.n] = sample end
    end
    while done[written + 1] do
      written = written + 1
      write(options, written, done[written], tokenizer)
      done[written] = nil
    end
    if pf.interrupted() then cli.fail(130, "generate: interrupted") end
  until written == options.count
end

--- The only sample, letter by letter where it is read by people.
local function sample_one(stream, options, tokenizer)
  local plain, sampling = not options.json and not options.fasta, sampling_of(options, 1)
  local sample, finish = { ids = {} }, tokenizer:special "end"
  local start, first = pf.clock(), first_ids(stream, options, 1, tokenizer)
  if plain then cli.write(options.prompt) end
  if first then stream:allow(first) end
  local id = stream:sample(sampling)
  stream:allow(writable(tokenizer))
  while #sample.ids < options.tokens and id ~= finish and not pf.interrupted() do
    sample.ids[#sample.ids + 1] = id
    if plain then cli.write(tokenizer:decode { id }) end
    if #sample.ids < options.tokens then id = stream:next(id, sampling) end
  end
  sample.seconds, sample.bytes = pf.clock() - start, stream:bytes()
  write(options, 1, sample, tokenizer, plain)
  if pf.interrupted() then cli.fail(130, "generate: interrupted") end
end

local function main()
  local parser = cli.add(cli.parser("generate", "Lets a trained model write.", {
    "performer generate --checkpoint runs/book --prompt 'ROMEO:' --tokens 300",
    "performer generate --checkpoint runs/proteins --temperature 0.8",
    "performer generate --checkpoint runs/proteins --count 100 --fasta > samples.fasta",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  check(options)
  cli.try(2, pf.open, { threads = options.threads })
  local model, tokenizer = open_model(options)
  if options.fasta and not tokenizer:special "end" then
    cli.fail(1, "generate: --fasta is for proteins, and the model writes bytes; leave it out")
  end
  local prompt = read_prompt(options, tokenizer)
  fit_tokens(options, model, prompt)
  local begun = model:stream { batch = 1 }
  begun:feed(prompt)
  begun:allow(writable(tokenizer))
  if options.count == 1 then return sample_one(begun, options, tokenizer) end
  sample_all(begun, model, options, tokenizer)
end

cli.main(main)
