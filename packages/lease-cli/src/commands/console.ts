/** `lease console`: the page of the package `lease-console`, on this machine. It is loaded only here, and need not be installed. */
import type * as ConsolePackage from 'lease-console'
import type { Context } from '../context.ts'
import { EXIT, wrongUsage } from '../exit-codes.ts'
import { optionalPackage } from '../optional-package.ts'
import { oneLine } from '../output.ts'

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
  const lib = await optionalPackage<typeof ConsolePackage>('lease-console')
  return context.withStore(async ({ manager, namespace, address }, signal) => {
    const by = await context.settings.author()
    const console = lib.createConsole({
      managers: { [namespace]: manager },
      readOnly: flags.write !== true,
      authorize: () => ({ who: by }), // who reaches this address may look; only this machine can change anything
      environment: flags.environment,
      onAction: (action) =>
        context.out.note(
          `lease: ${oneLine(JSON.stringify(action, (_key, part: unknown) => (typeof part === 'bigint' ? String(part) : part)))}`,
        ),
    })
    await using server = await lib.serveConsole(console, { port, host })
    context.out.line(`${server.url}/`)
    context.out.note(
      `lease: ${namespace} of ${address}, ${flags.write === true ? 'with revoke and pin' : 'read-only'}; Ctrl-C ends it`,
    )
    await new Promise<never>((_, reject) =>
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true }),
    )
    return EXIT.ok
  })
}
