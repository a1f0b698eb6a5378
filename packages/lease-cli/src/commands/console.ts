/** `lease console`: the page of the package `lease-console`, on this machine. It is loaded only here, and need not be installed. */
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Manager } from 'lease-core'
import type { Context } from '../context.ts'
import { CommandEnd, EXIT, wrongUsage } from '../exit-codes.ts'
import { oneLine } from '../output.ts'

/** What is used of `lease-console`. */
interface ConsolePackage {
  createConsole(options: {
    readonly managers: Readonly<Record<string, Manager>>
    readonly basePath: string
    readonly readOnly: boolean
    readonly authorize: () => { readonly who: string }
    readonly environment: string | undefined
    readonly onAction: (action: Readonly<Record<string, unknown>>) => void
  }): (request: Request) => Promise<Response>
  toNodeListener(handler: (request: Request) => Promise<Response>): RequestListener
}

/** The flags of `lease console`. */
export interface ConsoleFlags {
  readonly port?: string
  readonly host?: string
  readonly write?: boolean
  readonly environment?: string
}

/** Addresses that only this machine reaches. */
const LOCAL: readonly string[] = ['127.0.0.1', '::1', 'localhost']

/** Serves the console until it is interrupted. It only shows, unless `--write` is given. */
export async function serveConsole(context: Context, flags: ConsoleFlags): Promise<number> {
  const port = flags.port === undefined ? 0 : Number(flags.port)
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw wrongUsage(`--port must be a number from 0 to 65535 (got ${flags.port})`)
  const host = flags.host ?? '127.0.0.1'
  if (flags.write === true && !LOCAL.includes(host)) {
    throw wrongUsage(
      `--write is for this machine only (got --host ${host}): nobody is asked who they are`,
      'in your own server mount createConsole of lease-console, with authorize',
    )
  }
  if (flags.write === true) await context.mustWrite()
  const lib = await load()
  return context.withStore(async ({ manager, namespace, address }, signal) => {
    const by = await context.settings.author()
    const handler = lib.createConsole({
      managers: { [namespace]: manager },
      basePath: '',
      readOnly: flags.write !== true,
      authorize: () => ({ who: by }), // who reaches this address may look; only this machine can change anything
      environment: flags.environment,
      onAction: (action) =>
        context.out.note(
          `lease: ${oneLine(JSON.stringify(action, (_key, part: unknown) => (typeof part === 'bigint' ? String(part) : part)))}`,
        ),
    })
    const server = createServer(lib.toNodeListener(handler))
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(port, host, resolve)
    })
    const { port: bound } = server.address() as AddressInfo
    context.out.line(`http://${host.includes(':') ? `[${host}]` : host}:${bound}/`)
    context.out.note(
      `lease: ${namespace} of ${address}, ${flags.write === true ? 'with revoke and pin' : 'read-only'}; Ctrl-C ends it`,
    )
    try {
      await new Promise<never>((_, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true }),
      )
    } finally {
      server.close()
      server.closeAllConnections()
    }
    return EXIT.ok
  })
}

async function load(): Promise<ConsolePackage> {
  const name = 'lease-console' // no name for the compiler: the package need not be there
  try {
    return (await import(name)) as ConsolePackage
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new CommandEnd(
      EXIT.notFound,
      'the package lease-console is not installed',
      'npm install lease-console   beside lease-cli, or: npx -p lease-cli -p lease-console lease console',
    )
  }
}
