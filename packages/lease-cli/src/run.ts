/** The command line: which commands and flags there are, and how errors become exit codes. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError, Option } from 'commander'
import { ErrClaimDenied, ErrNotHeld, ErrNotValid, ErrUnknown, reasonOf } from 'lease-core'
import { withoutSecrets } from 'lease-core/adapter'
import { acquire, release, type AcquireFlags } from './commands/acquire.ts'
import { completions, completionScript, type Completable } from './commands/completion.ts'
import { serveConsole, type ConsoleFlags } from './commands/console.ts'
import { doctor } from './commands/doctor.ts'
import { exec, type ExecFlags } from './commands/exec.ts'
import { list, SORTS, type ListFlags } from './commands/list.ts'
import { pin, pins, revoke, type DryRun, type RevokeFlags } from './commands/revoke.ts'
import { collectTombstones, migrateTables, type CollectFlags, type MigrateFlags } from './commands/schema.ts'
import { show } from './commands/show.ts'
import { wait, watch, type WatchFlags } from './commands/watch.ts'
import { Context, type OpenStore } from './context.ts'
import { CommandEnd, EXIT } from './exit-codes.ts'
import { EXAMPLES } from './help-texts.ts'
import type { Io } from './io.ts'
import { Output } from './output.ts'
import type { CommonFlags } from './settings.ts'
import { advice, causeOf } from './store.ts'

/**
 * Runs one command, and resolves to its exit code. Never rejects: what goes wrong is printed to stderr, without passwords.
 *
 * @param args what stands behind `lease`
 * @param open opens the store; a test gives one of its own
 */
export async function run(args: readonly string[], io: Io, open?: OpenStore): Promise<number> {
  const cli = new CommandLine(io, open)
  return cli.run(args)
}

/** The flags that may stand without a value. */
const OPTIONAL_VALUE = ['--wait', '--retry']
/** Commands whose arguments are names of leases. */
const TAKES_LEASES = new Set(['exec', 'show', 'watch', 'wait', 'revoke', 'pin', 'unpin'])

class CommandLine {
  readonly #io: Io
  readonly #open: OpenStore | undefined
  readonly #program: Command
  #json = false
  #code: number = EXIT.ok
  /** What stands behind `--`. */
  #command: readonly string[] = []

  constructor(io: Io, open: OpenStore | undefined) {
    this.#io = io
    this.#open = open
    this.#program = this.#makeProgram()
  }

  async run(args: readonly string[]): Promise<number> {
    if (args[0] === '__complete') return this.#complete(args.slice(1))
    const at = args.indexOf('--')
    const own = at === -1 ? args : args.slice(0, at)
    this.#command = at === -1 ? [] : args.slice(at + 1)
    this.#json = own.includes('--json')
    try {
      // commander takes the next word for the value of such a flag, and that is the name of a lease.
      await this.#program.parseAsync(
        own.map((word) => (OPTIONAL_VALUE.includes(word) ? `${word}=forever` : word)),
        { from: 'user' },
      )
      return this.#code
    } catch (error) {
      return this.#failed(error)
    }
  }

  #failed(error: unknown): number {
    const out = new Output(this.#io, { json: this.#json, color: 'auto' })
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return EXIT.ok
      if (error.code === 'commander.help') return EXIT.usage
      out.fail(withoutSecrets(error.message.replace(/^error: /, '')), [
        'lease help shows the commands, lease help COMMAND its flags',
      ])
      return EXIT.usage
    }
    if (error instanceof CommandEnd) {
      if (error.message !== '') out.fail(withoutSecrets(error.message), error.hints)
      return error.exitCode
    }
    if (error instanceof ErrNotValid) {
      out.fail(error.message)
      return EXIT.usage
    }
    if (error instanceof ErrUnknown) {
      const setUp = error.reason === 'set-up'
      out.fail(
        causeOf(error),
        setUp ? ['lease doctor looks at the set-up; lease migrate makes missing tables'] : advice(error),
      )
      return EXIT.unavailable
    }
    out.fail(reasonOf(error))
    if (error instanceof ErrClaimDenied) return EXIT.busy
    return error instanceof ErrNotHeld ? EXIT.no : EXIT.failed
  }

  async #complete(words: readonly string[]): Promise<number> {
    const commands = this.#program.commands.map((command): Completable => ({
      name: command.name(),
      flags: [...command.options, ...this.#program.options].flatMap(({ long }) =>
        long === undefined || long === null ? [] : [long],
      ),
      takesLeases: TAKES_LEASES.has(command.name()),
    }))
    const found = await completions(words, commands, async () => {
      const context = new Context(this.#io, {}, this.#open)
      return context.withStore(async ({ manager }) => [...(await manager.leases()).keys()])
    }).catch(() => []) // a shell that completes shows no errors
    if (found.length > 0) this.#io.stdout.write(`${found.join('\n')}\n`)
    return EXIT.ok
  }

  #makeProgram(): Command {
    const program = new Command('lease')
    this.#dress(program, 'lease')
    program
      .description(
        'Leases in PostgreSQL, Redis, etcd and DynamoDB: run a job under a lease, and see, watch, revoke and pin leases.',
      )
      .version(versionOf(), '-V, --version', 'print the version')
      .helpCommand('help [command]', 'examples and flags of a command')
      .option(
        '--url <url>',
        'the store: postgres://…, redis://…, etcd://…, dynamodb://… (default: LEASE_URL; visible in ps)',
      )
      .option('--url-file <file>', 'a file with the URL (LEASE_URL_FILE)')
      .option('--config <file>', 'the configuration file (default: lease.config.json or .js here)')
      .option('-N, --namespace <name>', 'the namespace of the leases (LEASE_NAMESPACE)')
      .option('--schema <name>', 'PostgreSQL: the schema of the tables (LEASE_SCHEMA)')
      .option('--table <name>', 'PostgreSQL: the table (LEASE_TABLE; default: lease)')
      .option('--prefix <text>', 'Redis, etcd: what keys begin with (LEASE_PREFIX)')
      .option('--as <author>', 'who does it: printed with each write, for your log (LEASE_AS; default: user@host)')
      .option('--retry [duration]', 'wait for a server that does not answer, instead of ending with 69')
      .option('--json', 'print JSON')
      .addOption(
        new Option('--color <when>', 'use colours (NO_COLOR, FORCE_COLOR)').choices(['auto', 'always', 'never']),
      )
      .option('--verbose', 'print warnings about the set-up, and what a wait looks like')
    this.#addJobs(program)
    this.#addViews(program)
    this.#addChanges(program)
    this.#addAdministration(program)
    return program
  }

  #addJobs(program: Command): void {
    this.#add(program, 'exec [names...]', 'run a command while the lease is held: lease exec NAME -- COMMAND')
      .option('--wait [duration]', 'wait for the lease: --wait, or --wait=10m (default: fail at once)')
      .option('-n, --no-wait', 'fail at once')
      .option('--if-busy <what>', 'fail (75) or skip (0) when another holds it (default: fail)')
      .option('-E, --busy-exit-code <n>', 'instead of 75')
      .option('--duration <duration>', 'of the lease; it is renewed (default: 30s)')
      .option('--permits <n>', 'at most n holders at once')
      .option('--shared', 'a reader of the read-write lock of this name')
      .option('--exclusive', 'a writer of the read-write lock of this name')
      .option('--any', 'whichever of the named leases is free')
      .option('--holder <name>', 'who holds it (default: host, process id and random bits)')
      .option('--value <text>', 'text that everyone can read with the lease; @file reads it')
      .option('--announce', 'notify those who watch the lease at once')
      .option(
        '--at-least <duration>',
        'keep the lease for so long at least, also if the command ends earlier: until the last grant ends',
      )
      .option('--max-time <duration>', 'stop the command after so long (124)')
      .option(
        '--kill-after <duration>',
        'from the signal to KILL; lies inside the lease (default: 5s, or a quarter of --duration)',
      )
      .option('--signal <name>', 'what the command gets first (default: TERM)')
      .option('--foreground', 'no process group of its own: for commands that read from the terminal')
      .option('--on-lost <command>', 'run this line in the shell after the lease was lost')
      .option('-c, --shell <line>', 'run this line in the shell, instead of a command behind --')
      .action((names: string[], _: object, command: Command) =>
        this.#act(command, (context) => exec(context, names, this.#command, command.opts<ExecFlags>())),
      )
    this.#add(program, 'acquire <name>', 'take a lease that outlives this command')
      .requiredOption('--token-file <file>', 'where to write which term it is, for lease release')
      .option('--duration <duration>', 'for how long; nobody renews it')
      .option('--pin', 'until lease release, however long that takes')
      .option('--holder <name>', 'who holds it (default: host, process id and random bits)')
      .option('--value <text>', 'text that everyone can read with the lease')
      .option('--wait [duration]', 'wait for the lease: --wait, or --wait=10m (default: fail at once)')
      .action((name: string, _: object, command: Command) =>
        this.#act(command, (context) => acquire(context, name, command.opts<AcquireFlags>())),
      )
    this.#add(program, 'release <token-file>', 'end the term that lease acquire has begun').action(
      (file: string, _: object, command: Command) => this.#act(command, (context) => release(context, file)),
    )
  }

  #addViews(program: Command): void {
    this.#add(program, 'list [pattern]', 'which leases are held')
      .option('--held-by <holder>', 'of this holder')
      .option('--expiring <duration>', 'that lapse within this time unless they are renewed')
      .option('--older-than <duration>', 'that have been held for longer')
      .option('--pinned', 'that are pinned')
      .option('--sort <by>', `${SORTS.join(', ')} (default: name)`)
      .option('--limit <n>', 'at most so many')
      .option('--watch', 'again and again; with --json a line for each change')
      .option('--every <duration>', 'how often --watch reads (default: 2s)')
      .action((pattern: string | undefined, _: object, command: Command) =>
        this.#act(command, (context) => list(context, pattern, command.opts<ListFlags>())),
      )
    this.#add(program, 'show <name>', 'everything about one lease; 1 if nobody holds it').action(
      (name: string, _: object, command: Command) => this.#act(command, (context) => show(context, name)),
    )
    this.#add(program, 'watch <names...>', 'a line for each change')
      .option('--exec <command>', 'run this line in the shell at each change; its failure ends the watch')
      .option('--until <state>', 'held or free, then end')
      .option('--timeout <duration>', 'end with 75 after so long')
      .action((names: string[], _: object, command: Command) =>
        this.#act(command, (context) => watch(context, names, command.opts<WatchFlags>())),
      )
    this.#add(program, 'wait <name>', 'until nobody holds it')
      .option('--timeout <duration>', 'end with 75 after so long')
      .action((name: string, _: object, command: Command) =>
        this.#act(command, (context) => wait(context, name, command.opts<WatchFlags>())),
      )
  }

  #addChanges(program: Command): void {
    this.#add(program, 'revoke [name]', 'take a lease from its holder: this term, and no other')
      .option('--token <n>', 'only if this is its fencing token')
      .option('--holder <name>', 'only if this is its holder')
      .option('--all-of <holder>', 'all leases of this holder')
      .option('--reason <text>', 'printed with what was done, for your log; the store and the holder do not learn it')
      .option('-y, --yes', 'do not ask')
      .option('--dry-run', 'only say what would happen')
      .action((name: string | undefined, _: object, command: Command) =>
        this.#act(command, (context) => revoke(context, name, command.opts<RevokeFlags>())),
      )
    for (const kind of ['pin', 'unpin'] as const) {
      const words = kind === 'pin' ? 'keep a lease from lapsing, whatever happens to its holder' : 'withdraw a pin'
      this.#add(program, `${kind} <name> <entity>`, words)
        .option('--dry-run', 'only say what would happen')
        .action((lease: string, entity: string, _: object, command: Command) =>
          this.#act(command, (context) => pin(context, { lease, entity }, { kind, ...command.opts<DryRun>() })),
        )
    }
    this.#add(program, 'pins', 'which leases are pinned, and by whom').action((_: object, command: Command) =>
      this.#act(command, (context) => pins(context)),
    )
  }

  #addAdministration(program: Command): void {
    this.#add(program, 'doctor', 'why it does not work, or what may go wrong; 1 on findings').action(
      (_: object, command: Command) => this.#act(command, (context) => doctor(context)),
    )
    this.#add(program, 'migrate', 'PostgreSQL, DynamoDB: make the tables, or bring them up to date (LEASE_MIGRATE_URL)')
      .option('--dry-run', 'only print the SQL, or the template of CloudFormation')
      .option('--owner <role>', 'the role that the tables belong to, if it is another one')
      .action((_: object, command: Command) =>
        this.#act(command, (context) => migrateTables(context, command.opts<MigrateFlags>())),
      )
    this.#add(program, 'plans', 'PostgreSQL, DynamoDB: print the SQL of migrate, or the template of CloudFormation')
      .option('--owner <role>', 'the role that the tables belong to, if it is another one')
      .action((_: object, command: Command) =>
        this.#act(command, (context) => migrateTables(context, { ...command.opts<MigrateFlags>(), dryRun: true })),
      )
    this.#add(program, 'collect', 'PostgreSQL: remove the rows of leases that nobody has held for long')
      .option('--retention <duration>', 'for how long they must have been vacant (default: 1d)')
      .action((_: object, command: Command) =>
        this.#act(command, (context) => collectTombstones(context, command.opts<CollectFlags>())),
      )
    this.#add(program, 'console', 'a page on this machine that shows the leases (needs the package lease-console)')
      .alias('serve')
      .option('--port <n>', 'default: any free port')
      .option('--host <address>', 'default: 127.0.0.1')
      .option('--write', 'with buttons that revoke and pin')
      .option('--environment <name>', 'a badge, such as production')
      .action((_: object, command: Command) =>
        this.#act(command, (context) => serveConsole(context, command.opts<ConsoleFlags>())),
      )
    this.#add(program, 'completion <shell>', 'a script for bash, zsh or fish').action(
      (shell: string) => void this.#io.stdout.write(`${completionScript(shell)}\n`),
    )
  }

  #add(program: Command, usage: string, description: string): Command {
    const command = program.command(usage).description(description)
    this.#dress(command, usage.split(' ')[0] ?? '')
    return command
  }

  /** Help with examples first; nothing ends the process. */
  #dress(command: Command, name: string): void {
    command
      .exitOverride()
      .configureHelp({ showGlobalOptions: true })
      .configureOutput({
        writeOut: (text) => void this.#io.stdout.write(text),
        writeErr: (text) => void this.#io.stderr.write(text),
        outputError: () => {}, // printed with the exit code
        getOutHelpWidth: () => this.#io.stdout.columns ?? 100,
        getErrHelpWidth: () => this.#io.stderr.columns ?? 100,
        getOutHasColors: () => false,
        getErrHasColors: () => false,
      })
      .addHelpText('before', EXAMPLES[name] ?? '')
  }

  async #act(command: Command, action: (context: Context) => Promise<number>): Promise<void> {
    if (this.#command.length > 0 && command.name() !== 'exec') {
      throw new CommandEnd(EXIT.usage, `lease ${command.name()} runs no command: nothing can stand behind --`)
    }
    const context = new Context(this.#io, this.#program.opts<CommonFlags>(), this.#open)
    this.#code = await action(context)
  }
}

function versionOf(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    readonly version: string
  }
  return version
}
