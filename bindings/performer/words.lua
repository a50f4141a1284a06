-- performer/words.lua: what other libraries (PyTorch, JAX, Torch7, Keras) call things, and what is
-- meant by it here. Looked up before a near name is suggested: near by letters is often far by
-- sense (min is no sin).
--
-- What must hold (spec/binding_words_spec.lua): a word is no name of ours, and what it points to
-- is one.
local choices = require "performer.choices"
local core = require "performer.core"

local words = {}

-- ---- sentences that several words share ----

local CPU = "everything runs on the CPU"
local TAPE = "gradients are recorded under pf.tape alone: local tape <close> = pf.tape()"
local EAGER = "nothing is compiled: ops run as they are called"
local ACTIVATION = "activations are methods of tensors (x:relu()), or the option act of nn.mlp"
local LIKE = "sizes are a list: pf.zeros(t:shape())"
local LISTS = "pf.tensor takes nested lists; pf.load reads files of tensors"
local BACKWARD = "it is tape:backward(loss)"
local NO_BATCHNORM = "there is none; sequences take nn.layernorm or nn.rmsnorm"
local NO_LINALG = "there is none: pf.matmul multiplies, and models are trained"
local NO_DRAW = "a model draws by m:generate; else positions are pf.randint, ids of logits t:argmax"
local DIAGONAL = "it is (t * pf.eye(#t)):sum(2)"
local SPREAD = "it is pf.unsqueeze and pf.expand"
local OF_THEM = "it is said by a layer of one's own: nn.module { forward = f }"
local RANGE = "it is t[{ {1, 2}, 1 }], where {} is all of a dimension; positions count from 1"
local BUSTED = "a spec is run by busted: lua5.4 $(command -v busted) FILE"
local CLOCK = "it is pf.clock()"
local BOTH_DTYPES = "there are two: \"f32\" and \"i32\""
local NO_RECURRENCE = "there is none; what goes on token by token is nn.performer with its m:stream"
local NO_PICTURES = "there is none of two dimensions; over a sequence it is nn.conv"
local CROSS_ENTROPY = "it is t:cross_entropy(ids), of logits"
local LOOP = "it is a loop of one's own: for step, batch in data:batches { ... }; "
  .. "or performer train FILE on the command line"

-- ---- functions: pf.NAME ----

words.pf = {
  cat = "it is pf.concat", concatenate = "it is pf.concat", hstack = "it is pf.concat",
  vstack = "it is pf.concat", mm = "it is pf.matmul", bmm = "it is pf.matmul",
  dot = "it is pf.matmul", addmm = "it is pf.matmul, and +", outer = "it is pf.matmul",
  einsum = "it is said by pf.matmul, pf.permute and pf.reshape", view = "it is pf.reshape",
  flatten = "it is pf.reshape(t, -1)", ravel = "it is pf.reshape(t, -1)",
  swapaxes = "it is pf.transpose", movedim = "it is pf.permute", narrow = "it is pf.slice",
  chunk = "it is pf.slice, a part at a time", split = "it is pf.slice, a part at a time",
  dim = "it is t:rank", ndim = "it is t:rank", size = "it is t:size", numel = "it is t:numel",
  manual_seed = "it is pf.seed", set_seed = "it is pf.seed", PRNGKey = "it is pf.seed",
  Generator = "it is pf.seed", range = "it is pf.arange", normal = "it is pf.randn",
  uniform = "it is pf.rand", random = "it is pf.rand, or pf.randn", empty = "it is pf.zeros",
  zeros_like = LIKE, ones_like = LIKE, rand_like = LIKE, randn_like = LIKE, full_like = LIKE,
  empty_like = LIKE, array = LISTS, asarray = LISTS, as_tensor = LISTS,
  from_numpy = "it is pf.npy.load, or pf.frombytes",
  numpy = LISTS, FloatTensor = "it is pf.tensor", DoubleTensor = "it is pf.tensor, of float32",
  LongTensor = "it is pf.tensor with { dtype = \"i32\" }",
  IntTensor = "it is pf.tensor with { dtype = \"i32\" }", Variable = "it is pf.tensor",
  amax = "it is pf.max", amin = "it is pf.min", astype = "it is pf.cast", greater = "it is pf.gt",
  less = "it is pf.lt", equal = "pf.eq(a, b):all() tells", clip = "it is pf.clamp",
  masked_fill = "it is pf.where", mod = "it is pf.remainder",
  fmod = "it is pf.remainder, which has the sign of b",
  log10 = "it is pf.log(t) / math.log(10)", log2 = "it is pf.log(t) / math.log(2)",
  log1p = "it is pf.log(1 + t)",
  mse_loss = "it is pf.mean_square", nll_loss = "it is pf.cross_entropy, of logits",
  MSELoss = "it is pf.mean_square", CrossEntropyLoss = "it is pf.cross_entropy",
  scaled_dot_product_attention = "it is pf.attention.exact",
  flash_attention = "it is pf.attention.exact",
  no_grad = TAPE, enable_grad = TAPE, inference_mode = TAPE, autograd = TAPE, grad = TAPE,
  value_and_grad = TAPE, GradientTape = TAPE, backward = BACKWARD,
  device = CPU, cuda = CPU, jit = EAGER, compile = EAGER, vmap = EAGER,
  set_num_threads = "it is pf.open { threads = 2 }, before anything else",
  num_threads = "it is pf.open { threads = 2 }, before anything else",
  set_default_tensor_type = "numbers are float32, ids int32",
  set_default_dtype = "numbers are float32, ids int32",
  float32 = "it is said as a text: { dtype = \"f32\" }",
  int32 = "it is said as a text: { dtype = \"i32\" }",
  DataLoader = "it is pf.data.open, and data:batches", dataset = "it is pf.data.open",
  utils = "pf.data.open reads data, pf.checkpoint.save keeps models",
  functional = "functions are pf's own: pf.softmax", F = "functions are pf's own: pf.softmax",
  lr_scheduler = "it is pf.schedule", optimizer = "it is pf.optim", Adam = "it is pf.optim.adam",
  AdamW = "it is pf.optim.adamw", SGD = "it is pf.optim.sgd",
  Linear = "pf.linear is the op; the layer is pf.nn.linear",
  Sequential = "it is pf.nn.chain", Module = "it is pf.nn.module",
  quit = "it is pf.exit", train = LOOP, fit = LOOP, generate = "it is m:generate",
  conv1d = "it is pf.nn.conv, a layer", conv2d = NO_PICTURES, bpe = "it is pf.tokenizer.llama2c",
  is_tensor = "it is pf.kind(x) == \"tensor\"", typename = "it is pf.kind",
  type = "it is pf.kind", allclose = "it is pf.max(pf.abs(a - b)):item() < 1e-6",
  isclose = "it is pf.abs(a - b):lt(1e-6)", get_default_dtype = "numbers are float32, ids int32",
  is_grad_enabled = TAPE, set_grad_enabled = TAPE, meshgrid = SPREAD,
  broadcast_to = "it is pf.expand",
  logspace = "it is 10 ^ pf.linspace(first, last, n)", diag = DIAGONAL, trace = DIAGONAL,
  multinomial = NO_DRAW, bernoulli = "it is pf.rand(n):lt(p)",
  cumprod = "it is pf.cumsum(t:log()):exp()",
  lerp = "it is a + w * (b - a)", cmul = "it is pf.mul", cdiv = "it is pf.div",
  cmax = "it is pf.maximum", cmin = "it is pf.minimum", svd = NO_LINALG, linalg = NO_LINALG,
  inverse = NO_LINALG, fft = NO_LINALG, median = "it is pf.sort, and its middle",
  mode = "it is pf.one_hot(ids, n):sum(1):argmax() - 1", unique = "it is pf.sort, and a loop",
  bincount = "it is pf.one_hot(ids, n):sum(1)", histc = "it is pf.one_hot(ids, n):sum(1)",
  nonzero = "it is pf.arange(#mask, { dtype = \"i32\" })[mask] + 1",
  roll = "it is pf.slice and pf.concat",
  repeat_interleave = "it is pf.unsqueeze, pf.tile and pf.reshape",
  pad = "it is pf.concat with zeros",
  normalize = "it is t / t:norm(2, -1, true)", serialize = "it is pf.save", Timer = CLOCK,
  tic = CLOCK,
  toc = CLOCK, class = "it is pf.nn.module, or pf.nn.define",
  CmdLine = "its words are arg, Lua's list",
  float16 = BOTH_DTYPES, bfloat16 = BOTH_DTYPES, float64 = BOTH_DTYPES, int64 = BOTH_DTYPES,
  bool = "comparisons give 1 and 0 of \"i32\"",
}

-- ---- tensors: t:NAME ----

words.tensor = {
  view = "it is t:reshape", mm = "it is t:matmul", bmm = "it is t:matmul", dot = "it is t:matmul",
  addmm = "it is t:matmul, and +", cat = "it is pf.concat", clone = "it is t:detach",
  copy = "t:detach makes one; t:copy_(u) takes the numbers of another", data = "it is t:detach",
  T = "it is t:transpose", dim = "it is t:rank", ndim = "it is t:rank",
  ndimension = "it is t:rank", n_dimension = "it is t:rank", nelement = "it is t:numel",
  length = "it is t:size(1), or #t", len = "it is t:size(1), or #t",
  contiguous = "not needed: t:reshape copies where it has to",
  is_contiguous = "not needed: t:reshape copies where it has to",
  view_as = "it is t:reshape(u:shape())", reshape_as = "it is t:reshape(u:shape())",
  index_add = "it is t:scatter_add", resize = "it is t:reshape",
  resize_ = "it is t:reshape", flatten = "it is t:reshape(-1)",
  ravel = "it is t:reshape(-1)", swapaxes = "it is t:transpose", movedim = "it is t:permute",
  select = "it is t:slice, or t[i] of the first dimension",
  narrow = "it is t:slice(dim, first, last)",
  chunk = "it is t:slice, a part at a time", split = "it is t:slice, a part at a time",
  zero = "it is t:zero_", fill = "it is t:fill_", normal_ = "it is t:copy_(pf.randn(t:shape()))",
  uniform_ = "it is t:copy_(pf.rand(t:shape()))", normal = "it is pf.randn",
  uniform = "it is pf.rand", backward = BACKWARD, requires_grad_ = "it is t:requires_grad",
  retain_grad = "the gradient of a tensor that t:requires_grad marked is kept",
  zero_grad = "not needed: opt:step clears gradients; here, t:clear_grad",
  tolist = "it is t:totable", numpy = "it is t:totable, or t:tobytes", get = "it is t[i]:item()",
  set = "it is t[i] = value", storage = "it is t:totable, or t:tobytes",
  amax = "it is t:max", log10 = "it is t:log() / math.log(10)",
  log2 = "it is t:log() / math.log(2)", log1p = "it is (1 + t):log()", amin = "it is t:min",
  astype = "it is t:cast", type = "t:dtype tells it, t:cast changes it", clip = "it is t:clamp",
  int = "it is t:cast(\"i32\")", long = "it is t:cast(\"i32\")", float = "it is t:cast(\"f32\")",
  double = "it is t:cast(\"f32\"), of float32", half = "it is t:cast(\"f32\"), of float32",
  to = CPU .. "; t:cast changes the dtype", masked_fill = "it is pf.where",
  equal = "t:eq(u):all() tells", apply = "ops work on all of it; t:totable gives lists",
  map = "ops work on all of it; t:totable gives lists",
  cpu = CPU, cuda = CPU, device = CPU, is_cuda = CPU, mse_loss = "it is t:mean_square",
  multinomial = NO_DRAW, bernoulli = "it is pf.rand(t:shape()):lt(t)",
  bernoulli_ = "it is t:copy_(pf.rand(t:shape()):lt(p):cast(\"f32\"))", diag = DIAGONAL,
  trace = DIAGONAL,
  outer = "it is t:unsqueeze(-1) * u", cumprod = "it is t:log():cumsum(dim):exp()",
  lerp = "it is t + w * (u - t)", scatter_ = "it is t:scatter_add, or t[i] = value",
  scatter = "it is t:scatter_add, or t[i] = value", cmul = "it is t * u, or t:mul",
  cdiv = "it is t / u, or t:div", csub = "it is t - u, or t:sub", cmax = "it is t:maximum",
  cmin = "it is t:minimum", addcmul = "it is t + value * u * v",
  addcdiv = "it is t + value * u / v", index = "it is t:index_select(dim, positions)",
  index_fill = "it is t[{ ... }] = value, or pf.where", index_copy = "it is t[{ ... }] = value",
  kthvalue = "it is t:sort(dim), and t:slice", median = "it is t:sort(dim), and its middle",
  mode = "it is t:one_hot(n):sum(1):argmax() - 1",
  nonzero = "it is pf.arange(#t, { dtype = \"i32\" })[t] + 1",
  expand_as = "it is t:expand(u:shape())", type_as = "it is t:cast(u:dtype())",
  resize_as = "it is t:reshape(u:shape())", is_same_size_as = "compare t:shape()",
  repeat_tensor = "it is t:tile(2, 1)", unfold = "it is t:slice, a part at a time",
  byte = "it is t:cast(\"i32\")", bool = "it is t:ne(0)", new = "it is pf.zeros(2, 3)",
  svd = NO_LINALG, inverse = NO_LINALG, roll = "it is t:slice and pf.concat",
  masked_fill_ = "it is t[mask] = value", is_leaf = "t:wants_grad tells whether it is marked",
  nll_loss = CROSS_ENTROPY,
}

-- ---- models: m:NAME ----

words.module = {
  train = "training is said at the call: m(x, { training = true })",
  training = "training is said at the call: m(x, { training = true })",
  eval = "not needed: without { training = true } a call is one of evaluation",
  state_dict = "it is m:tensors", named_parameters = "it is m:tensors", weights = "it is m:tensors",
  named_modules = "it is m:children, or m:tree", modules = "it is m:children",
  layers = "it is m:children", get = "it is m:children()[i]", get_layer = "it is m:children()[i]",
  add = "children are said when it is made: nn.chain { a, b }",
  add_module = "children are said when it is made: nn.chain { a, b }",
  register_parameter = "a tensor in the table of nn.module is one",
  register_buffer = "a tensor under `buffers` in the table of nn.module is one",
  get_parameters = "it is m:parameters", trainable_variables = "it is m:parameters",
  count_params = "it is m:count", num_parameters = "it is m:count",
  load_state_dict = "pf.weights.load fills a model, and t:copy_ a tensor of m:tensors",
  load_weights = "it is pf.weights.load", from_pretrained = "it is pf.weights.open",
  save = "it is pf.checkpoint.save(dir, { model = m })",
  save_weights = "it is pf.checkpoint.save(dir, { model = m })",
  save_pretrained = "it is pf.checkpoint.save(dir, { model = m })",
  zero_grad = "not needed: opt:step clears gradients; here, m:clear_grad",
  zero_grad_parameters = "not needed: opt:step clears gradients; here, m:clear_grad",
  update_parameters = "it is opt:step", backward = BACKWARD, update_output = "it is m:forward",
  requires_grad_ = "it is m:freeze, or m:unfreeze", apply = "it is m:tensors, and t:copy_",
  to = CPU, cpu = CPU, cuda = CPU, half = "numbers are float32", float = "numbers are float32",
  double = "numbers are float32", compile = "not needed; an optimizer is pf.optim.adamw(m)",
  numel = "it is m:count", num_params = "it is m:count",
  load = "it is pf.weights.load(m, path)", config = "it is m:tree", size = "it is m:count",
  grads = "it is t:grad(), of each of m:parameters()",
  is_training = "training is said at the call: m(x, { training = true })", device = CPU,
  clear_state = "not needed: outputs are freed with their tape",
  clone = "pf.nn.build(m:tree()) is one alike; m:tensors, and t:copy_, fill it",
  share = "give both one layer, or one tensor",
  find_modules = "it is m:children, or m:tree",
  reset = "make another: pf.nn.build(m:tree()) is one alike",
  insert = "children are said when it is made: nn.chain { a, b }",
  remove = "children are said when it is made: nn.chain { a, b }",
  output = "it is what m:forward returned",
  grad_input = "it is t:grad(), of an input that is marked",
  fit = LOOP, predict = "it is m:forward, or m(x)", summary = "print(m) says it, m:tree as a table",
}

-- ---- what trains ----

words.optimizer = {
  zero_grad = "not needed: opt:step clears gradients", param_groups = "it is the option groups",
  lr = "it is said to opt:step { lr = ... }", learning_rate = "it is said to opt:step { lr = ... }",
  apply_gradients = "it is opt:step", minimize = "it is tape:backward(loss), then opt:step",
  update = "it is opt:step", init = "not needed: pf.optim.adamw(model) has made it",
  set_lr = "it is said to opt:step { lr = ... }",
  state_dict = "it is pf.checkpoint.save(dir, { model = m, optimizer = opt })",
  load_state_dict = "it is pf.checkpoint.load(dir, { model = m, optimizer = opt })",
}

words.tape = {
  gradient = "it is tape:backward(loss), then t:grad()",
  grad = "it is tape:backward(loss), then t:grad()", watch = "it is t:requires_grad",
  stop = "it is tape:close",
}

words.optim = {
  rmsprop = "there is none; pf.optim.adam divides by the same root",
  adagrad = "there is none; pf.optim.adam divides by a like root",
  lr_scheduler = "it is pf.schedule", nadam = "it is pf.optim.adamw",
  lbfgs = "there is none; pf.optim.adamw and pf.optim.muon need no line search",
  Logger = "performer train keeps log.csv; in a script it is print, or io.open",
}

local ANY_FUNCTION = "a schedule is a function of the step: any of yours is one"
words.schedule = {
  CosineAnnealingLR = "it is pf.schedule.cosine", CosineDecay = "it is pf.schedule.cosine",
  OneCycleLR = "it is pf.schedule.cosine, with warmup", StepLR = "it is pf.schedule.step",
  MultiStepLR = "it is pf.schedule.step", LinearLR = "it is pf.schedule.linear",
  ConstantLR = "it is pf.schedule.constant", LambdaLR = ANY_FUNCTION, exponential = ANY_FUNCTION,
  ExponentialLR = ANY_FUNCTION, ReduceLROnPlateau = ANY_FUNCTION, noam = ANY_FUNCTION,
  warmup = "it is the option warmup of pf.schedule.cosine",
  get_cosine_schedule_with_warmup = "it is pf.schedule.cosine",
}

-- ---- layers: pf.nn.NAME ----

words.nn = {
  sequential = "it is nn.chain", ModuleList = "it is nn.chain",
  relu = ACTIVATION, gelu = ACTIVATION, silu = ACTIVATION, sigmoid = ACTIVATION, tanh = ACTIVATION,
  elu = ACTIVATION, softmax = "it is a method of tensors: x:softmax(dim)",
  LogSoftMax = "it is a method of tensors: x:log_softmax(dim)", activation = ACTIVATION,
  transformer = "it is nn.performer", gpt = "it is nn.performer", bert = "it is nn.performer",
  TransformerEncoder = "it is nn.performer", TransformerDecoder = "it is nn.performer",
  TransformerEncoderLayer = "it is nn.block", TransformerDecoderLayer = "it is nn.block",
  MultiheadAttention = "it is nn.attention", SelfAttention = "it is nn.attention",
  CausalSelfAttention = "it is nn.attention, with causal = true", dense = "it is nn.linear",
  LookupTable = "it is nn.embedding", PositionalEncoding = "it is nn.positions",
  conv1d = "it is nn.conv", TemporalConvolution = "it is nn.conv", conv2d = NO_PICTURES,
  SpatialConvolution = NO_PICTURES, BatchNorm = NO_BATCHNORM, BatchNorm1d = NO_BATCHNORM,
  BatchNorm2d = NO_BATCHNORM, BatchNormalization = NO_BATCHNORM,
  LayerNormalization = "it is nn.layernorm", lstm = NO_RECURRENCE, gru = NO_RECURRENCE,
  rnn = NO_RECURRENCE, CrossEntropyLoss = CROSS_ENTROPY, ClassNLLCriterion = CROSS_ENTROPY,
  CrossEntropyCriterion = CROSS_ENTROPY, NLLLoss = CROSS_ENTROPY,
  MSELoss = "it is t:mean_square(u)", MSECriterion = "it is t:mean_square(u)",
  Parameter = "a tensor in the table of nn.module is one", View = "it is t:reshape",
  Reshape = "it is t:reshape", Flatten = "it is t:reshape",
  functional = "it is pf.softmax and so on",
  FeedForward = "it is nn.mlp", ffn = "it is nn.mlp", identity = "it is nn.chain {}",
  StochasticGradient = "it is pf.optim.sgd, and a loop", MeanPool = "it is nn.pool",
  utils = "clipping is an option: opt:step { clip = 1 }",
  Concat = "it is pf.concat, in a layer of one's own",
  JoinTable = "it is pf.concat, in a layer of one's own",
  CAddTable = "it is nn.residual, or nn.branches", ParallelTable = "it is nn.branches",
  gModule = OF_THEM,
  Transpose = "it is t:transpose", Squeeze = "it is t:squeeze", Select = "it is t:slice",
  leaky_relu = ACTIVATION, softplus = ACTIVATION, mish = ACTIVATION,
  init = "layers begin with weights of their own; of a tensor it is t:copy_(pf.randn(t:shape()))",
  parallel = "threads share the work of one model: pf.open { threads = 2 }",
}

-- ---- the rest ----

words.data = {
  DataLoader = "it is pf.data.open, and data:batches", dataset = "it is pf.data.open",
  load = "it is pf.data.open", read = "it is pf.data.open", file = "it is pf.data.open",
  TextDataset = "it is pf.data.text", TensorDataset = "tensors of yours need none: m(x)",
}
words.tokenizer = {
  char = "it is pf.tokenizer.byte", character = "it is pf.tokenizer.byte",
  bytes = "it is pf.tokenizer.byte", bpe = "it is pf.tokenizer.llama2c",
  sentencepiece = "it is pf.tokenizer.llama2c", fasta = "it is pf.tokenizer.protein",
  amino = "it is pf.tokenizer.protein",
  from_pretrained = "it is pf.tokenizer.llama2c", tiktoken = "it is pf.tokenizer.byte",
}
words.kernel = {
  favor = "it is pf.kernel.softmax", performer = "it is pf.kernel.softmax",
  gaussian = "it is pf.kernel.softmax", rbf = "it is pf.kernel.softmax",
  full = "it is pf.kernel.exact",
}
words.attention = {
  softmax = "it is pf.attention.favor, or pf.attention.exact", full = "it is pf.attention.exact",
  flash = "it is pf.attention.exact", vanilla = "it is pf.attention.exact",
  performer = "it is pf.attention.favor",
  window = "it is pf.attention.sliding", longformer = "it is pf.attention.sliding",
  reformer = "it is pf.attention.lsh", sparse = "it is pf.attention.strided",
  multihead = "it is pf.nn.attention, a layer",
  scaled_dot_product_attention = "it is pf.attention.exact",
}
words.checkpoint = {
  restore = "it is pf.checkpoint.load", open = "it is pf.checkpoint.load",
  write = "it is pf.checkpoint.save",
}
words.weights = {
  save = "it is pf.save, or pf.checkpoint.save", read = "it is pf.weights.open",
  from_pretrained = "it is pf.weights.open",
}

-- Methods of what has classes of its own.
words.stream = {
  generate = "it is m:generate", reset = "open another: m:stream()", copy = "it is stream:fork",
  clone = "it is stream:fork", step = "it is stream:next", forward = "it is stream:feed",
}
words.dataset = {
  shuffle = "data:batches shuffles by its seed", loader = "it is data:batches",
  size = "it is data:info().rows", vocab = "it is data:tokenizer():size()",
  vocab_size = "it is data:tokenizer():size()",
  next = "it is data:batch { size = 2 }, or data:batches", get = "it is data:batch { size = 2 }",
  encode = "it is data:tokenizer():encode(text)", decode = "it is data:tokenizer():decode(ids)",
  split = "it is said to data:batches, by its option split",
}

-- ---- at a prompt ----

-- Libraries by the names that they go by, and where their like is looked for.
words.libraries = {
  torch = "pf", numpy = "pf", np = "pf", jax = "pf", jnp = "pf", tf = "pf", tensorflow = "pf",
  mx = "pf", F = "pf", keras = "nn", flax = "nn", optax = "optim", optim = "optim",
}

-- Functions that other languages have.
words.globals = {
  len = "it is #t, or t:size(1) of a tensor", range = "it is for i = 1, n do ... end",
  str = "it is tostring", int = "it is math.tointeger, or x // 1", float = "it is tonumber",
  abs = "it is math.abs, or t:abs()", max = "it is math.max, or t:max()",
  min = "it is math.min, or t:min()", sum = "it is t:sum()", dir = "?x lists what x has",
  list = "it is a table: { 1, 2, 3 }", dict = "it is a table: { a = 1 }", exec = "it is load",
  isinstance = "it is pf.kind(x)", enumerate = "it is ipairs", input = "it is io.read()",
  help = "a prompt says it: ?pf.matmul", sorted = "it is pf.sorted(t), or table.sort",
  zip = "it is for i = 1, #t do ... end", map = "it is for i = 1, #t do ... end",
  open = "it is io.open",
  tqdm = "it is for i = 1, n do ... end", random = "it is math.random, or pf.rand",
  time = "it is pf.clock(), or os.time()", sys = "pf.exit ends a script, and arg has its words",
  json = "it is pf.json", plt = "performer report draws a run", xlua = "it is print, or io.write",
  paths = "it is io and os, Lua's own", image = "it is pf.npy.load, of arrays",
  class = "it is pf.nn.module, or a table with a metatable", lapp = "its words are arg, Lua's list",
  describe = BUSTED, it = BUSTED, unpack = "it is table.unpack", loadstring = "it is load",
  bit = "it is x & y, x | y, x ~ y, x << n", jit = "this is Lua 5.4", ffi = "this is Lua 5.4",
  import = "it is require", cmd = "its words are arg, Lua's list", bool = "it is x ~= nil",
}

-- ---- options ----

-- What an option is called elsewhere, and its names here: the first that is there is meant.
words.options = {
  depth = { "layers" }, n_layer = { "layers" }, n_layers = { "layers" }, nlayers = { "layers" },
  num_layers = { "layers" }, num_hidden_layers = { "layers" }, n_blocks = { "layers" },
  n_embd = { "dim" }, d_model = { "dim" }, embed_dim = { "dim" }, hidden_size = { "dim" },
  model_dim = { "dim" }, width = { "dim" }, axis = { "dim" }, axes = { "dim" },
  embedding_dim = { "dim" }, embedding_size = { "embedding_dim", "dim" },
  normalized_shape = { "dim" }, num_features = { "features", "dim" }, nb_features = { "features" },
  n_features = { "features" }, random_features = { "features" },
  n_head = { "heads" }, n_heads = { "heads" }, nhead = { "heads" }, num_heads = { "heads" },
  num_attention_heads = { "heads" }, n_kv_heads = { "kv_heads" }, num_kv_heads = { "kv_heads" },
  num_key_value_heads = { "kv_heads" }, d_head = { "head_dim" }, dim_head = { "head_dim" },
  inputs = { "from" }, in_features = { "from" }, input_dim = { "from", "vocab" },
  input_size = { "from" }, outputs = { "to" }, out_features = { "to" }, output_size = { "to" },
  output_dim = { "to", "dim" }, units = { "to" }, in_channels = { "dim" }, channels = { "dim" },
  kernel_size = { "width" }, vocab_size = { "vocab" }, n_vocab = { "vocab" },
  num_embeddings = { "vocab" }, num_tokens = { "tokens", "vocab" }, n_classes = { "classes" },
  num_classes = { "classes" }, num_labels = { "classes" },
  max_length = { "length", "tokens" }, max_len = { "length" }, seq_len = { "length" },
  max_seq_len = { "length" }, n_ctx = { "length" }, context_length = { "length" },
  max_position_embeddings = { "length" }, sequence_length = { "length" },
  block_size = { "block", "stride", "length" },
  intermediate_size = { "hidden" }, dim_feedforward = { "hidden" }, d_ff = { "hidden" },
  ffn_dim = { "hidden" }, mlp_dim = { "hidden" }, hidden_dim = { "hidden" },
  hidden_act = { "act" }, activation = { "act" }, nonlinearity = { "act" },
  dropout_rate = { "dropout", "p" }, drop = { "dropout", "p" }, drop_rate = { "dropout", "p" },
  resid_pdrop = { "dropout" }, hidden_dropout_prob = { "dropout" },
  attn_dropout = { "attention_dropout" }, attn_pdrop = { "attention_dropout" },
  attention_probs_dropout_prob = { "attention_dropout" }, use_bias = { "bias" },
  is_causal = { "causal" }, autoregressive = { "causal" }, rope_theta = { "rotary_base" },
  rope_base = { "rotary_base" }, tie_weights = { "tied" }, tie_embeddings = { "tied" },
  tie_word_embeddings = { "tied" }, weight_tying = { "tied" },
  epsilon = { "eps", "norm_eps" }, eps = { "norm_eps" }, layer_norm_eps = { "norm_eps" },
  rms_norm_eps = { "norm_eps" }, layer_norm_epsilon = { "norm_eps" },
  gradient_checkpointing = { "recompute" }, use_checkpoint = { "recompute" },
  checkpointing = { "recompute" },
  -- optimizers, schedules, steps
  weight_decay = { "decay" }, wd = { "decay" }, learning_rate = { "lr", "peak" },
  max_lr = { "peak" }, base_lr = { "peak" }, lr = { "peak" }, min_lr = { "floor" },
  eta_min = { "floor" }, warmup_steps = { "warmup" }, warmup_iters = { "warmup" },
  num_warmup_steps = { "warmup" }, max_steps = { "steps" }, num_steps = { "steps" },
  max_iters = { "steps" }, total_steps = { "steps" }, num_training_steps = { "steps" },
  decay_steps = { "steps" }, T_max = { "steps" }, gamma = { "factor" }, step_size = { "every" },
  beta_1 = { "beta1" }, beta_2 = { "beta2" }, ema_decay = { "rate", "ema" },
  param_groups = { "groups" }, max_norm = { "clip" }, grad_clip = { "clip" },
  clip_norm = { "clip" }, max_grad_norm = { "clip" },
  -- data, sampling, the engine
  file = { "path" }, filename = { "path" }, files = { "path" }, dir = { "path" },
  batch_size = { "size", "batch" }, batch = { "size" }, validation = { "valid" },
  val_split = { "valid_fraction" }, validation_split = { "valid_fraction" },
  max_new_tokens = { "tokens" }, max_tokens = { "tokens" }, n_predict = { "tokens" },
  temp = { "temperature" }, eos_token = { "stop" }, eos_token_id = { "stop" },
  stop_sequences = { "stop" }, input_ids = { "prompt" }, start = { "prompt" },
  context = { "prompt" }, callback = { "each" }, n_threads = { "threads" },
  num_threads = { "threads" }, nthreads = { "threads" }, max_memory = { "memory" },
  memory_limit = { "memory" }, keepdim = { "keep" }, keepdims = { "keep" },
  dims = { "order", "shape" }, attn_mask = { "mask" }, attention_mask = { "mask" },
  key_padding_mask = { "mask" }, train = { "training" }, is_training = { "training" },
  -- kinds of attention and patterns
  window_size = { "window", "window_blocks" }, attention_window = { "window" },
  bucket_size = { "window" }, local_window = { "window" }, look_ahead = { "ahead" },
  lookahead = { "ahead" }, global_tokens = { "global" }, num_global = { "global", "global_blocks" },
  dilation_rate = { "dilation" }, n_hashes = { "rounds" }, num_hashes = { "rounds" },
  hash_rounds = { "rounds" }, hash_buckets = { "buckets" }, num_buckets = { "buckets" },
  n_buckets = { "buckets" }, num_clusters = { "clusters" }, n_clusters = { "clusters" },
  centroid_rate = { "rate" }, num_random_blocks = { "random" }, random_blocks = { "random" },
  pattern_seed = { "seed" }, attention_scale = { "scale" }, softmax_scale = { "scale" },
  shared_qk = { "tied" },
}

-- What has no option here, and why.
words.notes = {
  device = CPU, requires_grad = "mark the tensor: t:requires_grad()",
  amsgrad = "there is none of it here",
  learning_rate_decay = "rates are said to opt:step { lr = ... }, by a pf.schedule",
  shuffle = "data:batches shuffles by its seed",
  num_workers = "batches are made as they are asked for",
  drop_last = "the last batch may be smaller",
  pin_memory = CPU, maximize = "turn the sign of the loss", out = "ops return new tensors",
  inplace = "ops return new tensors", padding_idx = "padded positions are said by a mask",
  batch_first = "the batch is always the first dimension",
  epochs = "steps are counted: without `steps`, data:batches goes once through the split",
  do_sample = "temperature = 0 is greedy",
  need_weights = "pf.attention.weights gives them",
}

-- ---- looking up ----

--- The same word in another spelling: zeroGrad, ZeroGrad, zero_grad; what changes in place stays
--- apart by its last underscore.
local function plain(word)
  local body, last = word:match "^(.-)(_?)$"
  return body:lower():gsub("_", "") .. last
end

--- A table of words that is found by any spelling.
local function spelled(list)
  local by_plain = {}
  for word, meant in pairs(list) do by_plain[plain(word)] = meant end
  return setmetatable(list, { __index = function(_, word)
    if type(word) ~= "string" then return nil end
    if list == words.tensor and word:find "[:,]" then return RANGE end
    return by_plain[plain(word)]
  end })
end

for _, list in pairs(words) do spelled(list) end

--- The one of `names` that is meant by `word` as others call it; nil: none.
function words.meant(word, names)
  local has = {}
  for _, name in ipairs(names) do has[name] = true end
  for _, name in ipairs(words.options[word] or {}) do
    if has[name] then return name end
  end
end

--- What is said behind "unknown option 'word'" where there are `names`: what is meant by it, why
--- there is none, the nearest, or all names.
function words.hint(word, names)
  if type(word) ~= "string" then return "" end
  local meant, note = words.meant(word, names), words.notes[word]
  if meant then return ("; it is '%s'"):format(meant) end
  if note then return "; " .. note end
  return choices.near(word, names)
end

core.set_hint(words.hint, choices.told)
for class, list in pairs { tensor = words.tensor, module = words.module, tape = words.tape,
                           optimizer = words.optimizer, stream = words.stream,
                           data = words.dataset } do
  core.set_words("performer." .. class, list)
end

return words
