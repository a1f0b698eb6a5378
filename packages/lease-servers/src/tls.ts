/**
 * TLS in front of a server that speaks none: certificates of an authority of the test's own, and a front that takes TLS off and passes the
 * bytes on. A server that is built without TLS is so tested like one that has it.
 */
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'
import { unpackDebian } from './debian.ts'
import { ServerHome, installed, output } from './process.ts'
import { releasePorts, reservePorts } from './ports.ts'

/** The files of a certificate and of its key. */
export interface Certificate {
  readonly cert: string
  readonly key: string
}

/** An authority that clients trust only if they are given its `ca`. Disposing of it removes all files. */
export interface Authority extends AsyncDisposable {
  /** The file of its own certificate. */
  readonly ca: string
  /**
   * Signs a certificate for these names.
   *
   * @param names as openssl has them: `DNS:localhost`, `IP:127.0.0.1`
   * @param days  for how long it is valid; a negative number: it has expired. @default 2
   */
  sign(names: readonly string[], days?: number): Promise<Certificate>
}

const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

/** @throws when there is no openssl on this machine, and Debian's cannot be fetched */
export async function startAuthority(): Promise<Authority> {
  const home = new ServerHome('authority')
  const [command, env] = await openssl()
  const run = (...args: readonly string[]): Promise<string> => output(command, args, { cwd: home.dir, env })
  const file = (name: string): string => join(home.dir, name)
  await run('req', '-x509', ...EC, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=lease tests')
  let count = 0
  return {
    ca: file('ca.pem'),
    async sign(names, days = 2) {
      const name = `cert-${++count}`
      writeFileSync(file(`${name}.ext`), `subjectAltName=${names.join(',')}\n`)
      await run('req', '-new', ...EC, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', '/CN=lease')
      const signer = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial']
      const request = ['-req', '-in', `${name}.csr`, '-extfile', `${name}.ext`, '-days', String(days)]
      await run('x509', ...request, ...signer, '-out', `${name}.pem`)
      return { cert: file(`${name}.pem`), key: file(`${name}.key`) }
    },
    [Symbol.asyncDispose]: () => home[Symbol.asyncDispose](),
  }
}

async function openssl(): Promise<readonly [command: string, env: NodeJS.ProcessEnv]> {
  if (await installed('openssl')) return ['openssl', {}]
  const { root, libraryPath } = await unpackDebian(['openssl'])
  const own = { LD_LIBRARY_PATH: libraryPath, OPENSSL_CONF: join(root, 'etc', 'ssl', 'openssl.cnf') }
  return [join(root, 'usr', 'bin', 'openssl'), own]
}

/** How the front speaks. */
export interface TlsFrontOptions extends Certificate {
  /** The port of the server on 127.0.0.1. */
  readonly to: number
  /** PostgreSQL asks first, in clear text, whether the server speaks TLS; HTTP/2 is agreed on while TLS begins. */
  readonly protocol?: 'postgres' | 'http2'
  /** Clients must have a certificate of this authority: its file. */
  readonly clientCa?: string
}

/** A front on a port of 127.0.0.1, which is also `localhost`. */
export interface TlsFront extends AsyncDisposable {
  readonly port: number
}

/** Listens with TLS, and passes on what it hears. */
export async function startTlsFront(options: TlsFrontOptions): Promise<TlsFront> {
  const { to, cert, key, clientCa, protocol } = options
  const sockets = new Set<Socket>()
  const kept = <S extends Socket>(socket: S): S => {
    sockets.add(socket)
    socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket))
    return socket
  }
  const own = {
    cert: readFileSync(cert),
    key: readFileSync(key),
    ...(protocol === 'http2' && { ALPNProtocols: ['h2'] }),
    ...(clientCa !== undefined && { ca: readFileSync(clientCa), requestCert: true, rejectUnauthorized: true }),
  }
  const secure = createTlsServer(own, (client) => {
    const server = connect({ host: '127.0.0.1', port: to })
    kept(client).pipe(kept(server)).pipe(client)
    client.on('close', () => server.destroy())
    server.on('close', () => client.destroy())
  })
  const answer = (socket: Socket): void => {
    kept(socket).once('data', () => {
      socket.write('S') // yes, it does
      secure.emit('connection', socket)
    })
  }
  const listener = protocol === 'postgres' ? createServer(answer) : secure.on('connection', kept)
  const [port] = (await reservePorts(1)) as [number]
  listener.listen(port, '127.0.0.1')
  await once(listener, 'listening')
  return {
    port,
    async [Symbol.asyncDispose]() {
      const closed = once(listener, 'close')
      listener.close()
      for (const socket of sockets) socket.destroy()
      await closed
      releasePorts([port])
    },
  }
}
