--- performer generate - lets a trained causal model write, one token at a time, in constant
-- memory.
local pf = require "performer"
local cli = require "kit.cli"
local core = require "performer.core"
local data_options = require "kit.data_options"
local engine = require "kit.engine"
local saved = require "kit.saved"
local tokens = require "kit.tokens"
local writing = require "performer.generate"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
  { "prompt", "text", "", "what to go on from" },
  { "prompts", "file", nil, "prompts instead: one a line, or records of FASTA; - for the standard "
    .. "input" },
  { "tokens", "positive", 200, "tokens to write at most" },
  { "stop", "text", nil, "ends a sample before this text; may be given again", many = "times" },
  { "temperature", "number", 1, "0: always the likeliest token" },
  { "top-k", "whole", 0, "sample among the k likeliest (0: all)" },
  { "top-p", "number", 1, "sample among the likeliest that hold this probability" },
  { "min-p", "number", 0, "sample among those of at least this share of the likeliest's "
    .. "probability (arXiv 2407.01082)" },
  { "repetition-penalty", "number", 1, "what a token's logit is divided by, below 0 multiplied, "
    .. "once it was read or written (CTRL, arXiv 1909.05858)" },
  { "seed", "whole", nil, "of the sampling; the next sample has the next one",
    "another each time" },
  { "count", "positive", 1, "samples of each prompt" },
  { "batch", "positive", 16, "so many of them at a time; the same samples for any number" },
  { "fasta", "flag", nil, "records of FASTA: proteins, each with its prompt" },
  { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
  saved.AVERAGE,
  data_options.TOKENIZER,
  { "vocabulary", "file", nil, "llama2.c's tokenizer.bin, for a model that was converted from "
    .. "there" },
  engine.threads(),
  { "json", "flag", nil, "one JSON object a sample on stdout" },
}
cli.place(ROWS, { "checkpoint", "run" }, { "prompt", "prompt" })

--- A prompt is a text: what elsewhere names a file is told so.
local function check_prompt(prompt)
  if prompt == "-" then
    cli.fail(2, "generate: '-' would be a prompt of one letter; --prompts - reads prompts from the "
      .. "standard input, one a line")
  end
  local file = prompt:find "^[%w_./-]+%.%w+$" and io.open(prompt)
  if file then
    file:close()
    cli.say("generate: '%s' is taken for the text itself; --prompts %s reads the prompts in that "
      .. "file, one a line", prompt, prompt)
  end
end

local function check(options, given)
  saved.check_run("generate", options)
  if not options.checkpoint then
    cli.fail(2, "generate: needs --checkpoint FOLDER, or short: generate RUN [PROMPT]")
  end
  if options.fasta and options.json then
    cli.fail(2, "generate: give --fasta or --json, not both")
  end
  if given.prompt and given.prompts then
    cli.fail(2, "generate: give --prompt or --prompts, not both")
  end
  check_prompt(options.prompt)
  if options.top_p > 1 or options.top_p == 0 then
    cli.fail(2, "generate: --top-p must be above 0 and at most 1")
  end
  if options.min_p > 1 then cli.fail(2, "generate: --min-p must be at most 1") end
  for _, stop in ipairs(options.stop or {}) do
    if stop == "" then cli.fail(2, "generate: --stop: '' is empty; leave it out, or say which") end
  end
  if options.repetition_penalty == 0 then
    cli.fail(2, "generate: --repetition-penalty must be more than 0 (1: none)")
  end
end

--- Says where all samples of a prompt are one: nothing is drawn by chance.
local function tell_alike(options)
  local why = options.temperature == 0 and "--temperature 0" or options.top_k == 1 and "--top-k 1"
  if not why or options.count == 1 then return end
  cli.say("generate: with %s, which always takes the likeliest token, the %d samples of a prompt "
    .. "are the same", why, options.count)
end

--- A seed that nobody has had.
local function fresh_seed()
  local file = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(4)
  if file then file:close() end
  if bytes and #bytes == 4 then return (string.unpack("<I4", bytes)) end
  return math.floor(os.time() + 1e6 * pf.clock()) & 0xffffffff
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

--- The prompts of --prompts: a list of { name, text }. Lines have no name.
local function read_prompts(path)
  local list, fasta = {}, nil
  for line in cli.read(path):gmatch "[^\n]+" do
    line = line:gsub("\r$", "")
    if fasta == nil and line:find "%S" then fasta = line:sub(1, 1) == ">" end
    local name = fasta and line:match "^>%s*(%S*)"
    if name then
      list[#list + 1] = { name = name ~= "" and name or ("record %d"):format(#list + 1), text = "" }
    elseif fasta then
      list[#list].text = list[#list].text .. line:gsub("%s", "")
    elseif line:find "%S" then
      list[#list + 1] = { text = line }
    end
  end
  if #list == 0 then cli.fail(1, ("generate: %s holds no prompt"):format(path)) end
  return list
end

--- A prompt's ids.
local function read_prompt(options, prompt, tokenizer)
  local ids, message = tokens.prompt(tokenizer, prompt.text)
  if not ids and prompt.n then
    message = ("%s: prompt %d: %s"):format(options.prompts, prompt.n, cli.advise(message))
  end
  return cli.need(ids, message)
end

--- How many tokens to write behind a prompt: a table of learned positions may end before.
local function fit_tokens(options, model, ids)
  local room = model:longest()
  local most = room - #ids + 1 -- the last one is not read
  if most < 1 then
    cli.fail(1, ("generate: the prompt has %d tokens, and the model's learned positions end at %d; "
      .. "give a shorter one"):format(#ids, room))
  end
  if options.tokens <= most then return options.tokens end
  cli.say("generate: %s at most: the model's learned positions end at %d",
    cli.count(most, "token"), room)
  return most
end

local function sampling_of(options, n)
  return { temperature = options.temperature, top_k = options.top_k, top_p = options.top_p,
           min_p = options.min_p, repetition_penalty = options.repetition_penalty,
           seed = options.seed + n - 1 }
end

--- The ids that sample n may begin with: a record without a prompt holds something, so where it
--- would end at once it begins with a letter; else nil.
local function first_ids(stream, options, prompt, n, tokenizer)
  local finish = tokenizer:special "end"
  if not options.fasta or prompt.text ~= "" then return nil end
  if stream:sample(sampling_of(options, n)) ~= finish then return nil end
  local letters = {}
  for _, one in ipairs(tokens.writable(tokenizer)) do
    if one ~= finish then letters[#letters + 1] = one end
  end
  return letters
end

-- ---- output ----

local SHOWN = 30 -- letters of a prompt in the header of a record

--- Writes what a model wrote, which may be any byte: a terminal obeys none of them.
local function write_text(text)
  cli.write(core.term.isatty(1) and cli.tame(text) or text)
end

--- A sequence as a record of FASTA, in lines of 60 letters.
local function record(sample, text)
  local prompt = sample.prompt.name or sample.prompt.text
  if #prompt > SHOWN then prompt = prompt:sub(1, SHOWN) .. "..." end
  local head = (">sample_%d seed=%d length=%d"):format(sample.n, sample.seed, #text)
  if prompt ~= "" then head = head .. " prompt=" .. cli.plain(prompt):gsub("%s", "_") end
  local lines = { head }
  for first = 1, #text, 60 do lines[#lines + 1] = text:sub(first, first + 59) end
  return table.concat(lines, "\n") .. "\n"
end

--- A sample, behind its prompt, to the standard output; told: its letters are there already.
local function write(options, sample, tokenizer, told)
  local ids, prompt = sample.written.ids, sample.prompt
  local text, rate = tokenizer:decode(ids), #ids / math.max(sample.seconds, 1e-9)
  local whole = prompt.text .. text
  if options.json then
    cli.print_json { text = whole, tokens = #ids, state_bytes = sample.bytes, tokens_per_s = rate,
                     seed = sample.seed, prompt = prompt.name or prompt.n,
                     sample = sample.number }
  elseif options.fasta then
    cli.write(record(sample, whole:upper()))
  else
    if not told then write_text(whole) end
    cli.write "\n"
    cli.say("%s, %.0f tokens/s, state %d bytes%s", cli.count(#ids, "token"), rate, sample.bytes,
      options.temperature > 0 and (", seed %d"):format(sample.seed) or "")
  end
end

-- ---- sampling ----

--- A stream that has read the prompt.
local function begin(model, options, prompt, tokenizer)
  local stream = model:stream { batch = 1 }
  stream:feed(read_prompt(options, prompt, tokenizer))
  stream:allow(tokens.writable(tokenizer))
  return stream
end

--- The n-th sample of all, the number-th of its prompt, before its first token.
local function new_sample(options, prompt, n, number, tokenizer)
  return { n = n, number = number, prompt = prompt, seed = options.seed + n - 1,
           written = writing.written(options.stops, tokenizer), start = pf.clock() }
end

--- Sample n joins the others, behind `begun`, which has read its prompt.
local function join(serving, begun, options, sample, tokenizer)
  local o = sampling_of(options, sample.n)
  o.stream, o.tokens, o.stop = begun, sample.prompt.tokens, tokenizer:special "end"
  o.allow = first_ids(begun, options, sample.prompt, sample.n, tokenizer)
  sample.first = o.allow ~= nil
  return serving:join(o)
end

--- A token of a sample that is under way; true when it was its last.
local function take(serving, sample, one, tokenizer)
  if one.ended == "failed" then cli.fail(1, "generate: " .. one.message) end
  if sample.first then serving:allow(one.id, tokens.writable(tokenizer)) end
  sample.first = false
  local met = one.ended ~= "stop" and sample.written:add(one.token)
  if not one.ended and not met then return false end
  sample.seconds = pf.clock() - sample.start
  sample.bytes = serving:sequence(one.id).bytes
  serving:leave(one.id)
  return true
end

--- All samples, `batch` of them at a time, each what it is alone; they are written in their order:
--- `count` of the first prompt, of the second one ...
local function sample_all(model, options, prompts, tokenizer)
  local serving <close> = model:serve()
  local here, done, joined, written, begun = {}, {}, 0, 0, nil
  local all = #prompts * options.count
  repeat
    while joined < all and serving:count() < options.batch do
      local prompt, number = prompts[1 + joined // options.count], 1 + joined % options.count
      if number == 1 then begun = begin(model, options, prompt, tokenizer) end
      joined = joined + 1
      local sample = new_sample(options, prompt, joined, number, tokenizer)
      here[join(serving, begun, options, sample, tokenizer)] = sample
    end
    for _, one in ipairs(serving:step()) do
      local sample = here[one.id]
      if take(serving, sample, one, tokenizer) then done[sample.n] = sample end
    end
    while done[written + 1] do
      written = written + 1
      write(options, done[written], tokenizer)
      done[written] = nil
    end
    if pf.interrupted() then cli.fail(130, "generate: interrupted") end
  until written == all
end

--- The only sample, letter by letter where it is read by people.
local function sample_one(model, options, prompt, tokenizer)
  local plain, sampling = not options.json and not options.fasta, sampling_of(options, 1)
  local stream, finish = begin(model, options, prompt, tokenizer), tokenizer:special "end"
  local sample = new_sample(options, prompt, 1, 1, tokenizer)
  local first, n = first_ids(stream, options, prompt, 1, tokenizer), 0
  local function show(id) write_text(tokenizer:decode { id }) end
  if plain then write_text(prompt.text) end
  if first then stream:allow(first) end
  local id = stream:sample(sampling)
  stream:allow(tokens.writable(tokenizer))
  while id ~= finish and not sample.written:add(id) do
    sample.written:tell(plain and show) -- what may begin a stop is held back
    n = n + 1
    if n == prompt.tokens or pf.interrupted() then break end
    id = stream:next(id, sampling)
  end
  sample.written:tell(plain and show, true)
  sample.seconds, sample.bytes = pf.clock() - sample.start, stream:bytes()
  write(options, sample, tokenizer, plain)
  if pf.interrupted() then cli.fail(130, "generate: interrupted") end
end

local function main()
  local parser = cli.add(cli.parser("generate", "Lets a trained model write.", {
    "performer generate runs/book 'ROMEO:' --tokens 300",
    "performer generate runs/proteins --temperature 0.8",
    "performer generate runs/proteins --count 100 --fasta > samples.fasta",
    "performer generate runs/book --prompts prompts.txt --stop '.' --json",
  }), ROWS)
  local options, given = cli.parse(parser, ROWS, arg)
  check(options, given)
  tell_alike(options)
  options.seed = options.seed or fresh_seed()
  engine.open { threads = options.threads }
  local model, tokenizer = open_model(options)
  if options.fasta and not tokenizer:special "end" then
    cli.fail(1, "generate: --fasta is for proteins, and the model writes bytes; leave it out")
  end
  if options.top_k >= tokenizer:size() then options.top_k = 0 end -- all of them, by any number
  options.stops = cli.try(2, writing.stops, options.stop, tokenizer)
  local prompts = options.prompts and read_prompts(options.prompts) or { { text = options.prompt } }
  for n, prompt in ipairs(prompts) do -- all of them before the first sample is written
    prompt.n = options.prompts and n
    prompt.tokens = fit_tokens(options, model, read_prompt(options, prompt, tokenizer))
  end
  if #prompts == 1 and options.count == 1 then
    return sample_one(model, options, prompts[1], tokenizer)
  end
  sample_all(model, options, prompts, tokenizer)
end

cli.alone("generate", main)
