"""Every bound of the program, named, in one place (R14). Sizes in bytes unless the name says otherwise."""

BODY_BYTES = 32 * 1024 * 1024
"""A request body larger than this is refused before it is read."""
HEAD_BYTES = 64 * 1024
"""Request line and headers, which come before anybody has shown a key."""
HEAD_READ_S = 30.0
"""They may take no longer to arrive."""
ADMIN_BODY_BYTES = 256 * 1024
QUEUE_BYTES = 512 * 1024 * 1024
"""Bodies of all tickets that wait for one pool."""
PROMPT_PARTS = 10_000
"""Messages and content parts of one request: each takes time of the one loop that serves everybody."""
JSON_DEPTH = 64
"""Nesting of a request body."""
WIDTH = 8
"""Sequences that one request may ask for (`n` × prompts, R49)."""
MAX_RESTARTS = 3
"""A ticket that was restarted this often is left alone (R11)."""
MAX_FAILURES = 3
"""A ticket that replicas failed this often is given up (R46)."""
MAX_YIELDS = 3
"""Yields per ticket on an engine that loses a cut prompt (R52)."""
MAX_PAUSED_S = 600.0
"""A ticket paused in all for longer ends with an error event (R11)."""
GATE_TOKENS = 2_048
"""Prompt tokens that may be under way on a replica for priority and worse to start there (R52)."""
YIELD_TOKENS = 512
"""Uncached prompt tokens above which a worse ticket yields its prefill (R52)."""
CHEAP_CONTINUATION_TOKENS = 256
"""Default may take from flex and batch only where a continuation recomputes no more (R11)."""
GUARD_SHARE = 0.9
"""The gap guard acts this far into the longest gap that it allows, so that the gap ends within it (R11)."""
PROTECTION_S = 0.5
"""Least time after a resume in which nobody but reserved takes the ticket again (R11)."""
SSE_COMMENT_S = 15.0
"""A paused stream gets a comment line this often (R11)."""
LEDGER_BATCH = 100
"""Ledger entries in one commit: one statement, of which SQLite's driver keeps 128 texts compiled."""
LEDGER_INTERVAL_S = 0.004
"""Time between two commits of the ledger under load, so that it is committed in groups."""
LEDGER_ENTRY_S = 0.000_25
"""Time between two commits for each entry of the first: a lone entry delays the next one hardly at all."""
LEDGER_WAIT_S = 5.0
"""An answer whose ledger entry is not on disk after this long is told so (R35)."""
LEDGER_PENDING = 20_000
"""Ledger entries that may wait for the disk before new work is refused."""
ANSWER_BYTES = 64 * 1024 * 1024
"""An upstream answer that is not streamed may be no larger."""
EVENT_BYTES = 4 * 1024 * 1024
"""One server-sent event of an upstream may be no larger."""
HEADER_VALUE_CHARS = 256
"""What is kept of a caller's own request id."""
METRIC_PROJECTS = 200
"""Projects with a label of their own; later ones share `other` (R42)."""
BREAKS = 32
"""Pauses, restarts and failovers of one request that its trace shows (R42)."""
CODE_CHARS = 64
"""What a trace shows of the code of an error, which may be an engine's own."""
SPANS_FLUSH_S = 5.0
"""At its end the gateway waits no longer for the collector of traces."""
NAME_CHARS = 64
"""Names of projects and keys."""
MODEL_CHARS = 256
"""What is kept of a model's name."""
TAGS = 16
"""Tags of one key; a tag's value has at most `HEADER_VALUE_CHARS`."""
WEIGHT = 1_000_000
"""A project's share inside a tier (R8)."""
QUOTA = 10**12
"""Tokens or requests a minute, or concurrent requests (R25)."""
PRICE_USD = 100_000
"""USD per 1 M tokens after the multiplier: 92 M tokens at that price still fit a 64-bit amount (R34)."""
AMOUNT_USD = 9_000_000
"""A cap on what may be spent: it fits a 64-bit amount (R34)."""
THROTTLES = 1_000
"""Throttles in a row that an escalation rule may wait for (R40)."""
RULE_S = 86_400
"""How long an escalation rule may look back, and how long it may last (R40)."""
RESERVATIONS = 1_000
"""Of one model, scheduled or active: a check of the calendar reads them all (R19)."""
RESERVATION_DAYS = 5 * 366
"""How far ahead a reservation may start or end."""
RESERVATION_WINDOWS = 28
"""Windows of weekly hours of one reservation."""
RESERVED_PRICE_USD = 10_000
"""USD an hour for 1,000 tokens a minute (R33)."""
FEE_USD = 1_000_000
"""What one reservation may cost an hour: a minute's fee fits a 64-bit amount (R34)."""
EXHAUSTED_S = 86_400
"""For so long after its end a reservation counts as exhausted instead of as none (R3)."""
PAGE = 1_000
"""Objects in one page of a control-plane list."""
USAGE_ROWS = 10_000
"""Rows of one usage report; a longer one is refused, as what to narrow."""
REPORTS_RUNNING = 2
"""Reports that are made at once, so that the threads and connections of everything else stay free."""
BODY_READ_S = 300.0
"""A request body may take no longer to arrive."""
CALLER_STALL_S = 60.0
"""A caller who reads nothing of an answer that waits for him is taken for gone after this long, at most twice it."""
CALLER_MARGIN_S = 5.0
"""A call that is not streamed waits in line this much less than its client waits for the answer, where that is told."""
REPEAT_KEY_BYTES = 255
"""Length of an idempotency key."""
REPEAT_WAIT_S = 30.0
"""Work whose callers have all hung up goes on so long for one of them to come back with the same idempotency key."""
REPEAT_S = 3_600.0
"""An answer is kept so long for repeats with its idempotency key."""
REPEAT_BYTES = 64 * 2**20
"""Memory for answers that are kept for repeats; the oldest go first."""
REPEAT_ENTRY_BYTES = 2_048
"""What one of them takes beside its text."""
SETTINGS = 1_024
"""Entries of one list of the configuration file: models, replicas, fields, domains."""
SLOTS = 4_096
"""Sequences of one replica at once."""
LOCAL_SLOTS = 254
"""The same for the built-in engine: llama.cpp runs 256, of which two are spare (R17)."""
CONTEXT_TOKENS = 1_048_576
"""Context of one slot of the built-in engine."""
SIMULATED_US = 60_000_000
"""What one step of a simulated replica may take, and each sequence's part of it."""
SIMULATED_LEAD_STEPS = 8
"""Steps that a simulated engine prepares ahead."""
SIMULATED_TOKENS = 10**9
"""A simulated replica's memory, its chunk of prompt, and its prefill speed in a second."""
EXPECTED_TOKENS = 1_048_576
"""Output that is expected of a request while nothing has been learned (R25)."""
BURNDOWN = 100
"""What one token may count against a reservation or TPM quota (R24, R25)."""
MULTIPLIER = 1_000
"""A tier's price multiplier in the configuration file (R33)."""
AMOUNT_DECIMALS = 9
"""Of a price or multiplier there; prices that follow from it have two or three more (R24, R32)."""
WAIT_S = 7 * 86_400.0
"""How long a tier's wait in line may be (R14)."""
QUEUE_LIMIT = 1_000_000
"""Tickets in one line (R14)."""
DRAIN_S = 86_400.0
"""How long running work may go on after SIGTERM."""
URL_CHARS = 2_048
"""An address in the configuration file."""
SECRET_BYTES = 8_192
"""A secret that is read from a file."""
CACHE_POINTS = 4
"""Cache points of one request (R28)."""
CACHE_LOOK_BACK = 20
"""Blocks that a cache point looks back over for what is cached, its own included (R28)."""
CACHE_ENTRIES = 100_000
"""Cached beginnings of prompts that callers asked for, in one pool (R29)."""
CACHE_DIGESTS = 100_000
"""Beginnings of prompts that ran, remembered in one pool (R30)."""
CACHE_LEAST_BYTES = 512
"""A shorter prompt is looked for in no cache: to compute it again is less than one chunk of an engine's prefill."""
CACHE_BLOCKS = 256
"""Of one prompt: its first 32, and its last."""
CACHE_HOLDERS = 64
"""Replicas that are remembered to hold one beginning (R16)."""
SLOT_FILES_BYTES = 1024 * 1024 * 1024
"""Caches of paused answers that the built-in engine keeps beside its slots."""
RESPONSE_DAYS = 30
"""How long a response is stored."""
RESPONSE_BYTES = 8 * 2**20
"""A response that takes more, with all that it answers, is not stored."""
RESPONSES = 100_000
"""Stored responses of one project; the oldest go first."""
RESPONSES_BYTES = 2**30
"""What they may take together."""
RESPONSES_PENDING_BYTES = 64 * 2**20
"""Responses that may wait for the database; what comes on top is not stored."""
RESPONSES_SWEEP_S = 60.0
"""Stored responses beyond their bounds go at least this often."""
RESPONSE_REFERENCES = 100
"""Stored responses whose items one call may refer to."""
BACKGROUND_RUNS = 100
"""Responses of one project that may wait or run in the background."""
BACKGROUND_S = 3_600.0
"""One that an end of the gateway has interrupted is run again if it is no older than this at the next start."""
FILE_BYTES = 2 * 2**30
"""One uploaded file (R37)."""
FILE_NAME_CHARS = 512
"""A file's name as its caller has it; it is shown again, and is no path of ours."""
PROJECT_FILES = 10_000
"""Files of one project (R51)."""
PROJECT_FILE_BYTES = 64 * 2**30
"""What they may hold together (R51)."""
UPLOADS = 32
"""Uploads of one project under way at once: each takes two descriptors for as long as its caller likes (R51)."""
FILE_DAYS = 30
"""A file is kept so long, unless its caller says otherwise."""
UPLOAD_S = 3_600.0
"""An upload may take no longer."""
FORM_FIELD_BYTES = 1_024
"""A field of a form that is no file."""
BATCH_LINES = 1_000_000
"""Lines of one batch (R37)."""
BATCH_LINE_BYTES = 4 * 2**20
"""One of them (R37)."""
BATCH_NAME_CHARS = 512
"""What its caller calls a line."""
BATCH_ERRORS = 100
"""Mistakes of lines that a batch names itself; its error file has them all."""
BATCHES = 1_000
"""Batches of one project that have not ended."""
BATCHES_RUNNING = 64
"""Batches that run at once, at most `PROJECT_BATCHES_RUNNING` of one project; the others wait for their turn."""
PROJECT_BATCHES_RUNNING = 4
BATCH_BYTES = 64 * 2**20
"""Bodies of one batch's lines that are under way."""
BATCH_DELIVERY_S = 86_400
"""What a batch came to is tried to be put in its place for so long; then it is kept here."""
BATCH_INPUTS = 100
"""Files of one input folder."""
BATCH_ROOTS = 64
"""Places of one project for inputs and outputs."""
BATCH_URI_CHARS = 1_024
"""A name of such a place, or below it."""
BATCH_DEPTH = 32
"""Folders in a name."""
MESSAGE_BATCH_BYTES = 256 * 2**20
"""The body of a batch whose lines come with the call that makes it."""
MESSAGE_BATCH_LINES = 100_000
BATCH_DAYS = 30
"""A batch is shown so long after its end."""
COUNTS = 16
"""Counts of tokens of one project at once."""
WEBHOOK_WAITING = 10_000
"""Events of one project that may wait for their receiver; the oldest are given up for new ones."""
WEBHOOK_KEPT = 100_000
"""Events of one project that are kept, to be listed and sent again; the oldest go first."""
WEBHOOK_DAYS = 30
"""How long."""
WEBHOOK_SENDS = 256
"""Webhooks under way at once."""
WEBHOOK_PROJECT_SENDS = 4
"""The same of one project; one at a time where its receiver failed the last time."""
WEBHOOK_POLL_S = 1.0
"""How often it is looked for events that are due."""
WEBHOOK_SWEEP_S = 3_600.0
"""How often those beyond their bounds are deleted."""
WEBHOOK_OVERLAP_S = 86_400
"""For so long after a new secret the old one signs too."""
OUTBOUND_S = 10.0
"""One exchange with a stranger's server, name look-up included."""
OUTBOUND_ANSWER_BYTES = 4_096
"""What is read of its answer."""
OUTBOUND_LOOKUPS = 64
"""Names that are looked up at once."""
OUTBOUND_ADDRESSES = 64
"""A name that has more addresses is not spoken to."""
CONSUME_PLACES = 256
"""Messages of a queue that one worker works on at once."""
CONSUME_DELIVERIES = 10
"""One that workers were given so often and never answered is answered with an error: it may be what ends them."""
CONSUME_TRIES = 4
"""So often a worker sends a call that gateway or engines fail."""
CONSUME_FIELDS = 64
"""Fields of a message that are given back with its answer."""
CONSUME_FIELD_BYTES = 64 * 1024
"""Their names and values together."""
TRACE_LINE_BYTES = 1024 * 1024
"""One line of a trace file."""
TRACE_TOKENS = 100_000_000
"""Tokens of one kind that a request of a trace may have."""
ROUTE_MODELS = 16
"""Models of one route."""
ROUTE_RULES = 100
"""Rules of one route for workloads."""
TOKENS_PER_S = 1_000_000
"""What a route may ask of a model at most."""
SPEED_WINDOW_S = 60.0
"""How long a request tells how fast its model is (R45)."""
SPEED_SAMPLES = 256
"""The newest requests of one model and tier that tell it."""
SPEED_TRY_S = 1.0
"""So often a request of a route is sent to a model whose speed nobody knows."""
CONSOLE_SESSIONS = 64
"""Logins of the console at once, of each role; one more ends the oldest of its role."""
CONSOLE_SESSION_S = 12 * 3_600.0
"""A login ends after it."""
CONSOLE_LOGINS = 10
"""Failed logins that one peer of the console has in `CONSOLE_LOGIN_WINDOW_S`."""
CONSOLE_LOGIN_WINDOW_S = 60.0
CONSOLE_PEERS = 1_024
"""Peers whose failed logins are remembered."""
CONSOLE_FORM_BYTES = 16 * 1024
"""The body of a login."""
CONSOLE_ROWS = 2_000
"""Rows of a list that the console reads."""
CONSOLE_PAGES = 64
"""Pages that one login has open at once."""
CONSOLE_PROMPT_CHARS = 20_000
"""A prompt of the console's playground."""
STALE_PARTS = 50
"""Stale minutes or days that a report leaves out one by one; with more, all between them is read from the ledger."""
FOLD_GRACE_S = 10.0
"""A minute is summed so long after its end: entries that are still being written then make it stale."""
FOLD_ENTRIES = 10_000
"""The ledger is summed in pieces of so many entries where it is behind, and of a minute at least."""
FOLD_STALE = 20
"""Stale minutes that are summed again at once."""
FOLD_POLL_S = 2.0
"""How often it is looked for minutes to sum."""
MINUTE_DAYS = 90
"""How long sums by minute are kept (R42)."""
SUM_DAYS = 3 * 366
"""How long sums by day are kept (R43)."""
EXACT_DAYS = 7
"""Percentiles over a longer time are out of daily histograms (R43)."""
PLAN_MINUTES = 366 * 1440
"""The longest time that a plan reads minute by minute."""
PLAN_ROWS = 100
"""Projects and models that one plan advises: those that ask the most."""
PLAN_TRACE_ROWS = 5_000
"""Requests of a trace in the body of a plan; longer ones are planned from a file."""
PLAN_BODY_BYTES = 2 * 2**20
"""The body of a plan: 400 bytes for each of them."""
PLAN_S = 300.0
"""A plan that takes longer is given up."""
PLAN_REPLAYED = 100_000
"""Requests that all replays of a plan may have together."""
PLAN_SAMPLE = 5_000
"""Requests of one replay at most."""
PLAN_SAMPLE_LEAST = 200
"""Fewer say nothing of a 99th percentile."""
PLAN_MEMORY_BYTES = 4 * 2**30
"""Of the process that makes a plan."""
