import { Socket } from 'node:net'

type Connect = (this: Socket, ...args: unknown[]) => Socket

/** Counts what this process reads from and writes to the sockets that it connects from now on. */
export function countedBytes(): () => number {
  const open = new Set<Socket>()
  let over = 0
  const bytesOf = ({ bytesRead, bytesWritten }: Socket): number => bytesRead + bytesWritten
  const connect = Reflect.get(Socket.prototype, 'connect') as Connect
  const counted: Connect = function (...args) {
    if (!open.has(this)) {
      open.add(this)
      this.once('close', () => {
        open.delete(this)
        over += bytesOf(this)
      })
    }
    return connect.apply(this, args)
  }
  Reflect.set(Socket.prototype, 'connect', counted)
  return () => {
    let bytes = over
    for (const socket of open) bytes += bytesOf(socket)
    return bytes
  }
}
