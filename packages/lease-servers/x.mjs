import { startAuthority } from 'lease-servers'
const { findRedis } = await import('./dist/redis.js')
console.log(JSON.stringify(await findRedis()))
const a = await startAuthority()
const s = await a.sign(['DNS:localhost', 'IP:127.0.0.1'], 30)
console.log(a.ca, s.cert, s.key)
setInterval(()=>{},1e6)
